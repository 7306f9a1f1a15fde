/**
 * The booking engine alone: batches against one durable PostgreSQL, without HTTP. Beside it, in turns, the ceiling: what
 * the same table takes from one plain `INSERT … SELECT`, with all its constraints and indexes but nothing decided.
 */
import { randomUUID } from "node:crypto";
import { BookingStore } from "../../shard-node/booking-store.ts";
import { type EventId, newBookingId, newEventId, newIdempotencyKey, type UserId } from "../../shared/ids.ts";
import { Database, type Statement } from "../../shared/postgres.ts";
import { slotOf } from "../../shared/slots.ts";
import type { BookCommand } from "../../shared/wire.ts";
import { type Figure, median, type PartContext, written } from "../part.ts";

const BATCH = 500;
const LANES = 2;
const EVENTS = 10_000;
const ROUNDS = 3;
/** Bookings of one measurement, for each second that was asked for. */
const BOOKINGS_PER_SECOND = 7_500;
const TICKETS = 10_000_000;
const BUDGET_MS = 60_000;
/** Either is enough. */
const TARGET = { perSecond: 30_000, shareOfCeiling: 0.6 };

const OWNED: Statement = {
  name: "bench-owned",
  text: "select array(select slot from owned_slots)::integer[] as slots",
};
const ADD_EVENTS: Statement = {
  name: "bench-add-events",
  text: `
    insert into events
      (id, slot, name, starts_at, total_tickets, available_tickets, max_per_user, highest_max_per_user, created_at, updated_at)
    select id, slot, 'Benchmark', now(), $3::integer, $3::integer, 2, 2, now(), now()
    from unnest($1::uuid[], $2::smallint[]) as e(id, slot)`,
};
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
  const open = (connectionsMax: number) =>
    new Database({ ...DATABASE, url: shard.databaseUrl, connectionsMax });
  const [database, plain] = [open(LANES), open(1)];
  const bookings = Math.ceil((seconds * BOOKINGS_PER_SECOND) / (BATCH * LANES)) * BATCH * LANES;
  try {
    const events = await eventsOf(database, EVENTS + LANES + 1);
    const [hot, second, apart, ...many] = events as [EventId, EventId, EventId, ...EventId[]];
    const store = new BookingStore(database, Date.now);
    const lanesOf = (...lanes: EventId[][]) => ({
      run: async (size: number) =>
        decideAll(
          store,
          lanes.map((lane) => commandsFor(lane, size / lanes.length)),
        ),
    });
    const variants = {
      ceiling: { run: async (size: number) => insertPlainly(plain, apart, size) },
      oneLane: lanesOf([hot]),
      twoLanes: lanesOf([hot], [second]),
      evenly: lanesOf(many.slice(0, EVENTS / 2), many.slice(EVENTS / 2)),
    };
    const rates = { ceiling: [0], oneLane: [0], twoLanes: [0], evenly: [0] } satisfies Record<
      keyof typeof variants,
      number[]
    >;
    for (let round = 0; round <= ROUNDS; round += 1) {
      for (const name of Object.keys(variants) as (keyof typeof variants)[]) {
        signal.throwIfAborted();
        // Round 0 warms up: plans, caches, compilers.
        const size = round === 0 ? BATCH * LANES * 4 : bookings;
        const took = await variants[name].run(size);
        rates[name][round] = size / took;
        progress.show(
          `engine: round ${round} of ${ROUNDS}, ${name} ${Math.round(size / took).toLocaleString("en")}/s`,
        );
      }
    }
    const counted = (name: keyof typeof variants) => rates[name].slice(1);
    const ceilings = counted("ceiling");
    const figure = (name: keyof typeof variants, title: string): Figure => {
      const shares = counted(name).map((rate, round) => rate / (ceilings[round] ?? Number.NaN));
      const [value, share] = [median(counted(name)), median(shares)];
      return {
        name: title,
        value,
        unit: "/s",
        target: {
          wanted: `≥ ${written(TARGET.perSecond, "/s")} or ${TARGET.shareOfCeiling} of the ceiling`,
          met: value >= TARGET.perSecond || share >= TARGET.shareOfCeiling,
        },
        note: `${share.toFixed(2)} of the ceiling; rounds ${shares.map((each) => each.toFixed(2)).join(" ")}`,
      };
    };
    return [
      figure("oneLane", "one event, 1 lane"),
      figure("twoLanes", "two events, 2 lanes"),
      figure("evenly", "10,000 events, 2 lanes"),
      {
        name: "ceiling: one INSERT … SELECT",
        value: median(ceilings),
        unit: "/s",
        note: `${bookings.toLocaleString("en")} rows a statement, 1 connection`,
      },
    ];
  } finally {
    await Promise.all([database.close(), plain.close()]);
  }
}

const DATABASE = {
  applicationName: "onsale-bench",
  waitersMax: 10,
  connectTimeoutMs: 10_000,
  statementTimeoutMs: 120_000,
  lockTimeoutMs: 10_000,
};

/** New events on this shard. */
async function eventsOf(database: Database, count: number): Promise<EventId[]> {
  const [owned] = await database.query<{ slots: number[] }>(OWNED);
  const slots = new Set(owned?.slots);
  const ids: EventId[] = [];
  while (ids.length < count) {
    const id = newEventId(Date.now());
    if (slots.has(slotOf(id))) ids.push(id);
  }
  await database.query(ADD_EVENTS, [ids, ids.map(slotOf), TICKETS]);
  return ids;
}

/** One ticket each for as many users as there are commands, the events in turns. */
function commandsFor(events: readonly EventId[], count: number): BookCommand[][] {
  const batches: BookCommand[][] = [];
  for (let made = 0; made < count; made += 1) {
    if (made % BATCH === 0) batches.push([]);
    batches.at(-1)?.push({
      kind: "book",
      eventId: events[made % events.length] as EventId,
      userId: newUser(),
      quantity: 1,
      key: newIdempotencyKey(),
      budgetMs: BUDGET_MS,
    });
  }
  return batches;
}

/** Decides the batches of each lane one after the other, the lanes side by side. Returns seconds. */
async function decideAll(store: BookingStore, lanes: readonly BookCommand[][][]): Promise<number> {
  const started = performance.now();
  await Promise.all(
    lanes.map(async (batches) => {
      for (const batch of batches) {
        const { decisions } = await store.decide(batch, store.freshIdsFor(batch));
        const refused = decisions.find((decision) => decision.outcome !== "booked");
        if (refused !== undefined) throw new Error(`a booking was refused: ${refused.outcome}`);
      }
    }),
  );
  return (performance.now() - started) / 1000;
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
