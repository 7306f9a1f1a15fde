/**
 * The booking engine alone: commands wait in the lanes of a shard node, and batches of them are decided by one durable
 * PostgreSQL; no HTTP. Beside it, in turns, the ceiling: what the same table takes from one plain `INSERT … SELECT`, with all
 * its constraints and indexes but nothing decided. And once more, in turns with itself, what the log of changes costs.
 */
import { randomUUID } from "node:crypto";
import { BookingStore } from "../../shard-node/store/booking-store.ts";
import { Decider } from "../../shard-node/decide/decider.ts";
import { BATCHES_PER_LANE_MAX, Lanes } from "../../shard-node/decide/lanes.ts";
import { systemClock } from "../../shared/process/clock.ts";
import { type EventId, newBookingId, newIdempotencyKey, type UserId } from "../../shared/domain/ids.ts";
import { createLog } from "../../shared/process/log.ts";
import { Database, type Statement } from "../../shared/database/database.ts";
import { slotOf } from "../../shared/domain/slots.ts";
import type { BookCommand } from "../../shared/domain/commands.ts";
import { DATABASE, makeEvents } from "../cluster-events.ts";
import { freshShard } from "../fresh-shard.ts";
import { holdOldSnapshot } from "../old-snapshot.ts";

import { atLeast, type Figure, median, type PartContext } from "../part.ts";
import { processorSecondsOfTree } from "../processes.ts";

/** As a node has it by default (LANE_BATCH_MAX). */
const BATCH_MAX = 500;
const LANES_MAX = 2;
const EVENTS = 10_000;
const ROUNDS = 5;
/** Bookings of one measurement, for each second that was asked for. */
const BOOKINGS_PER_SECOND = 3_000;
const TICKETS = 10_000_000;
const DEADLINE_MS = 60_000;
const TARGET_SHARE = 0.75;
/** Of an event while somebody holds an old snapshot: what an hour of a rush makes. */
const CHANGES = 60_000;
const TARGET_BESIDE_OLD_SNAPSHOT = 0.9;
const TARGET_WITH_LOG = 0.92;

const CEILING = "ceiling";
const ONE_EVENT = "one event, 1 lane";
const BESIDE = "one event, 1 lane, beside an old snapshot";

/** With the log and without, in turns. Batches are small where a shard has little to do. */
const WITH_LOG = [
  { name: "one event, 1 lane, with its log", lanes: 1, batchMax: BATCH_MAX },
  { name: "two events, 2 lanes, batches of 20, with their log", lanes: 2, batchMax: 20 },
] as const;

const PREPARE_ROWS: Statement = {
  name: "bench-prepare-rows",
  text: "create temp table if not exists ceiling_rows (id uuid, event_id uuid, user_id text, idempotency_key text)",
};
const CLEAR_ROWS: Statement = { name: "bench-clear-rows", text: "truncate ceiling_rows" };
const FILL_ROWS: Statement = {
  name: "bench-fill-rows",
  text: "insert into ceiling_rows select * from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[])",
};
const INSERT_ROWS: Statement = {
  name: "bench-insert-rows",
  text: `
    insert into bookings
      (id, slot, event_id, user_id, quantity, status, expires_at, idempotency_key, created_at, updated_at)
    select id, $1, event_id, user_id, 1, 'confirmed', null, idempotency_key, now(), now() from ceiling_rows`,
};
/** What the plain insert leaves out; the audit must find every ticket. */
const COUNT_TICKETS: Statement = {
  name: "bench-count-tickets",
  text: "update events set available_tickets = available_tickets - $2 where id = $1",
};

export async function engine({
  cluster,
  seconds,
  signal,
  progress,
}: PartContext): Promise<readonly Figure[]> {
  const [shard] = cluster.shards;
  if (shard === undefined) throw new Error("the cluster has no shard");
  const open = (url: string, connectionsMax: number) =>
    new Database({ ...DATABASE, url, connectionsMax, statementTimeoutMs: 120_000 });
  const openLanes = (url: string) => open(url, LANES_MAX * BATCHES_PER_LANE_MAX);
  const [logging, silent] = [
    await freshShard(shard.databaseUrl, "with_log"),
    await freshShard(shard.databaseUrl, "without_log"),
  ];
  const [database, withLog, withoutLog] = [shard, logging, silent].map(({ databaseUrl }) =>
    openLanes(databaseUrl),
  ) as [Database, Database, Database];
  const plain = open(shard.databaseUrl, 1);
  const bookings = Math.ceil((seconds * BOOKINGS_PER_SECOND) / BATCH_MAX) * BATCH_MAX;
  try {
    const events = await makeEvents([shard], EVENTS + 3, { totalTickets: TICKETS });
    const [apart, aged, first, ...many] = events as [EventId, EventId, EventId, ...EventId[]];
    // Of the other lane.
    const second = many.find((id) => slotOf(id) % LANES_MAX !== slotOf(first) % LANES_MAX) ?? first;
    const deciderOf = (from: Database) =>
      new Decider(new BookingStore(from, Date.now), NO_HOOKS, createLog("bench", "warn"));
    const decider = deciderOf(database);
    const ceiling: Run = async (size) => insertPlainly(plain, apart, size);
    const variants: Readonly<Record<string, Run>> = {
      [ONE_EVENT]: async (size) => decideAll(decider, 1, [first], size),
      "two events, 2 lanes": async (size) => decideAll(decider, 2, [first, second], size),
      "10,000 events, 2 lanes": async (size) => decideAll(decider, 2, many, size),
    };
    const measure: Measure = async (runs) => {
      const measured: Measurements = Object.fromEntries(Object.keys(runs).map((name) => [name, []]));
      for (let round = 0; round <= ROUNDS; round += 1) {
        const entries = Object.entries(runs);
        // Whoever always comes second finds what the first has left to do.
        for (const [name, run] of round % 2 === 0 ? entries : entries.toReversed()) {
          signal.throwIfAborted();
          // Round 0 warms up: plans, caches, compilers.
          const size = round === 0 ? BATCH_MAX * 8 : bookings;
          const before = processorSecondsOfTree(shard.postgresPid);
          const took = await run(size);
          const postgres = processorSecondsOfTree(shard.postgresPid) - before;
          if (round > 0) measured[name]?.push({ perSecond: size / took, postgresSeconds: postgres / size });
          progress.show(`engine: round ${round} of ${ROUNDS}, ${name} ${Math.round(size / took)}/s`);
        }
      }
      return measured;
    };
    const measured = await measure({ [CEILING]: ceiling, ...variants });
    const logged = await measureLog(measure, [
      [deciderOf(withLog), await makeEvents([logging], 2, { totalTickets: TICKETS })],
      [deciderOf(withoutLog), await makeEvents([silent], 2, { totalTickets: TICKETS })],
    ]);
    progress.show(`engine: ${CHANGES} changes of an event beside an old snapshot`);
    using _snapshot = await holdOldSnapshot(shard.databaseUrl, aged, CHANGES);
    const beside = await measure({
      [CEILING]: ceiling,
      [BESIDE]: async (size) => decideAll(decider, 1, [aged], size),
    });
    const rate = median(sharesOf(beside, BESIDE).shares) / median(sharesOf(measured, ONE_EVENT).shares);
    return [
      ...Object.keys(variants).flatMap((name) => figuresFor(measured, name)),
      ...WITH_LOG.map(({ name }) => costOfLog(logged, name)),
      ...figuresFor(beside, BESIDE),
      {
        name: `${BESIDE}: of itself without`,
        value: rate,
        unit: "ratio",
        target: atLeast(TARGET_BESIDE_OLD_SNAPSHOT, rate, "ratio"),
        note: `${CHANGES.toLocaleString("en")} changes of the event since; shares of the ceiling compared`,
      },
      {
        name: "ceiling: one INSERT … SELECT",
        value: rateOf(measured, CEILING),
        unit: "/s",
        note: `${bookings.toLocaleString("en")} rows a statement, 1 connection`,
      },
    ];
  } finally {
    await Promise.all([database.close(), withLog.close(), withoutLog.close(), plain.close()]);
  }
}

interface Measured {
  readonly perSecond: number;
  /** PostgreSQL's processor time a booking. */
  readonly postgresSeconds: number;
}

/** Books that many tickets. Returns seconds. */
type Run = (size: number) => Promise<number>;
/** Of each run, one per round. */
type Measurements = Record<string, Measured[]>;
type Measure = (runs: Readonly<Record<string, Run>>) => Promise<Measurements>;

function rateOf(measured: Measurements, name: string): number {
  return median((measured[name] ?? []).map(({ perSecond }) => perSecond));
}

/** Of the ceiling of the same round, by speed and by what a booking costs PostgreSQL. */
function sharesOf(measured: Measurements, name: string): { shares: number[]; costs: number[] } {
  const pairs = (measured[name] ?? []).map((run, round) => [run, measured[CEILING]?.[round]] as const);
  return {
    shares: pairs.map(([run, ceiling]) => run.perSecond / (ceiling?.perSecond ?? Number.NaN)),
    costs: pairs.map(([run, ceiling]) => (ceiling?.postgresSeconds ?? Number.NaN) / run.postgresSeconds),
  };
}

function figuresFor(measured: Measurements, name: string): Figure[] {
  const { shares, costs } = sharesOf(measured, name);
  const share = median(shares);
  return [
    { name, value: rateOf(measured, name), unit: "/s" },
    {
      name: `${name}: share of the ceiling`,
      value: share,
      unit: "ratio",
      ...(name === ONE_EVENT && { target: atLeast(TARGET_SHARE, share, "ratio") }),
      note: `rounds ${written(shares)}; by PostgreSQL's processor time ${written(costs)}`,
    },
  ];
}

/** The same on two fresh shards, of which one logs nothing. */
async function measureLog(
  measure: Measure,
  [logging, silent]: readonly (readonly [Decider, readonly EventId[]])[],
): Promise<Measurements> {
  const run =
    (shard: typeof logging, { lanes, batchMax }: (typeof WITH_LOG)[number]): Run =>
    async (size) => {
      if (shard === undefined) throw new Error("there are two shards to compare");
      const [decider, events] = shard;
      return decideAll(decider, lanes, events.slice(0, lanes), size, batchMax);
    };
  const runs = WITH_LOG.flatMap((shape): [string, Run][] => [
    [shape.name, run(logging, shape)],
    [`${shape.name}, no log`, run(silent, shape)],
  ]);
  return measure(Object.fromEntries(runs));
}

function costOfLog(measured: Measurements, name: string): Figure {
  const pairs = (measured[name] ?? []).map(
    (run, round) => [run, measured[`${name}, no log`]?.[round]] as const,
  );
  const rates = pairs.map(([run, without]) => run.perSecond / (without?.perSecond ?? Number.NaN));
  const costs = pairs.map(([run, without]) => (without?.postgresSeconds ?? Number.NaN) / run.postgresSeconds);
  const rate = median(rates);
  return {
    name: `${name}: of itself without`,
    value: rate,
    unit: "ratio",
    target: atLeast(TARGET_WITH_LOG, rate, "ratio"),
    note: `rounds ${written(rates)}; by PostgreSQL's processor time ${written(costs)}`,
  };
}

const written = (values: readonly number[]) => values.map((value) => value.toFixed(2)).join(" ");
const NO_HOOKS = { committed() {}, lockWaited() {} };
const NO_OBSERVER = { batchStarted() {}, batchEnded() {}, commandWaited() {}, shed() {} };

/** One ticket each for as many users, the events in turns, all waiting in the lanes at once. Returns seconds. */
async function decideAll(
  decider: Decider,
  lanes: number,
  events: readonly EventId[],
  count: number,
  batchMax = BATCH_MAX,
): Promise<number> {
  const waiting = new Lanes(
    { lanes, batchMax, queueMax: 2 * count, waitMaxMs: DEADLINE_MS, perUserMax: 1 },
    async (...batch) => decider.decide(...batch),
    systemClock,
    NO_OBSERVER,
  );
  const targets = events.map((eventId) => ({ eventId, slot: slotOf(eventId) }));
  const deadline = Math.round(systemClock.elapsed()) + DEADLINE_MS;
  const commands = Array.from({ length: count }, (_, number): BookCommand => ({
    kind: "book",
    ...(targets[number % targets.length] as (typeof targets)[number]),
    userId: newUser(),
    quantity: 1,
    key: newIdempotencyKey(),
    deadline,
  }));
  const started = performance.now();
  const decided = await Promise.all(commands.map(async (command) => waiting.run(command)));
  const took = (performance.now() - started) / 1000;
  const refused = decided.find(({ result }) => result.outcome !== "booked");
  if (refused !== undefined) throw new Error(`a booking was refused: ${refused.result.outcome}`);
  return took;
}

/** Inserts rows of the same kind in one statement. Returns seconds. */
async function insertPlainly(database: Database, event: EventId, count: number): Promise<number> {
  const slot = slotOf(event);
  const column = <T>(make: () => T) => Array.from({ length: count }, make);
  await database.query(PREPARE_ROWS);
  await database.query(CLEAR_ROWS);
  await database.query(FILL_ROWS, [
    column(() => newBookingId(slot, Date.now())),
    column(() => event),
    column(newUser),
    column(newIdempotencyKey),
  ]);
  const started = performance.now();
  await database.query(INSERT_ROWS, [slot]);
  const took = (performance.now() - started) / 1000;
  await database.query(COUNT_TICKETS, [event, count]);
  return took;
}

const newUser = () => `buyer-${randomUUID().slice(0, 13)}` as UserId;
