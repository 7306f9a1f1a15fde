/**
 * What a replica costs a booking. Two shards of one cluster differ in one thing: the second has a replica, which streams
 * asynchronously in one turn and synchronously in the next. The same is asked of each in turns: everybody at once, which shows
 * what a full lane makes of the wait, and one buyer after the other, which shows the wait itself. The replica is a server on
 * this machine: it takes part of its processors and its disk, and its network takes next to no time.
 */
import { randomUUID } from "node:crypto";
import { rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { STANDBY_NAME, startStandbyServer } from "../../deploy/embedded/standby-server.ts";
import { Database, type Statement } from "../../shared/database/database.ts";
import { DATABASE } from "../cluster-events.ts";
import { bookingsOf, targetOf } from "../load/plans.ts";
import { startGenerator } from "../load/run.ts";
import { type ClusterPart, type Figure, median, type Outcome, type PartContext } from "../part.ts";
import type { Table } from "../tables.ts";
import { CONNECTIONS, otherAnswers } from "./rush.ts";

const ROUNDS = 7;
/** Not counted: the second shard's node and PostgreSQL have compiled and cached nothing yet. */
const WARM_UP_ROUNDS = 1;
const WARM_UP_SECONDS = 0.5;
const USERS = 200_000;
const SETTINGS = ["no replica", "asynchronous", "synchronous"] as const;
const SWITCH_MAX_MS = 10_000;

type Setting = (typeof SETTINGS)[number];

interface Measured {
  /** Bookings a second by 256 connections, and their latencies in milliseconds. */
  readonly perSecond: number;
  readonly p50: number;
  readonly p99: number;
  /** Of one connection. */
  readonly aloneP50: number;
  readonly aloneP99: number;
}

type Round = Readonly<Record<Setting, Measured>>;

export const replication: ClusterPart = {
  name: "replication",
  title: "what a replica costs a booking, asynchronous and synchronous",
  seconds: 2,
  estimate: (seconds) =>
    20 + (ROUNDS + WARM_UP_ROUNDS) * SETTINGS.length * 2 * (seconds + WARM_UP_SECONDS + 0.3),
  onlyNamed: true,
  cluster: { shards: 2 },
  run,
};

async function run(context: PartContext): Promise<Outcome> {
  const { cluster, signal, progress } = context;
  const [without, followed] = cluster.shards;
  if (without === undefined || followed === undefined) throw new Error("the cluster has no two shards");
  progress.show("replication: making a replica");
  await using replica = await startReplica(followed.databaseUrl);
  await using generator = startGenerator({ signal, progress });
  // Spread over the shards in their order.
  const [first = "", second = ""] = await cluster.createEvents(2, {
    totalTickets: 10_000_000,
    maxPerUser: 100,
  });
  const buyers = { [without.id]: 0, [followed.id]: 0 };

  const measure = async (setting: Setting): Promise<Measured> => {
    const [shard, event] = setting === "no replica" ? [without, first] : [followed, second];
    if (setting !== "no replica") await replica.become(setting, signal);
    const book = async (connections: number) => {
      const report = await generator.run(
        {
          target: targetOf(cluster.router.url),
          connections,
          warmUpSeconds: WARM_UP_SECONDS,
          seconds: context.seconds,
          requests: bookingsOf([event], {
            secret: cluster.secret,
            users: USERS,
            first: buyers[shard.id] ?? 0,
          }),
        },
        `replication: ${setting}, ${connections === 1 ? "one buyer" : `${connections} buyers`}`,
      );
      buyers[shard.id] = (buyers[shard.id] ?? 0) + report.sent;
      const others = otherAnswers(report, "201");
      if (others !== "none") throw new Error(`${setting}: other answers than 201: ${others}`);
      return report;
    };
    const [rush, alone] = [await book(CONNECTIONS), await book(1)];
    // What was measured is what was asked for, to the end.
    if (setting !== "no replica") await replica.expect(setting);
    return {
      perSecond: rush.classes.confirmed / rush.seconds,
      p50: rush.latencyMs.p50,
      p99: rush.latencyMs.p99,
      aloneP50: alone.latencyMs.p50,
      aloneP99: alone.latencyMs.p99,
    };
  };

  const rounds: Round[] = [];
  for (let round = -WARM_UP_ROUNDS; round < ROUNDS; round += 1) {
    const measured: Partial<Record<Setting, Measured>> = {};
    // There and back: what drifts meanwhile favours nobody.
    for (const setting of round % 2 === 0 ? SETTINGS : SETTINGS.toReversed())
      measured[setting] = await measure(setting);
    if (round >= 0) rounds.push(measured as Round);
  }
  return {
    figures: [
      ...pricesOf("asynchronous", "no replica", rounds),
      ...pricesOf("synchronous", "asynchronous", rounds),
    ],
    tables: [tableOf(rounds)],
    notes: [
      "the replica runs on this machine, so it takes part of its processors and of its disk; on another machine a synchronous booking waits one round trip of the network more",
    ],
  };
}

/** Ratios within a round, so that a slow moment of the machine is in both. */
function pricesOf(setting: Setting, beside: Setting, rounds: readonly Round[]): Figure[] {
  const price = (name: string, of: (measured: Measured) => number): Figure => {
    const ratios = rounds.map((round) => of(round[setting]) / of(round[beside])).toSorted((a, b) => a - b);
    const quarter = Math.floor(ratios.length / 4);
    const [low = Number.NaN, high = Number.NaN] = [ratios[quarter], ratios[ratios.length - 1 - quarter]];
    return {
      name: `${setting} beside ${beside}: ${name}`,
      value: median(ratios),
      unit: "×",
      note: `half of ${ratios.length} rounds from ${low.toFixed(2)} to ${high.toFixed(2)} ×`,
    };
  };
  return [
    price(`bookings a second, ${CONNECTIONS} buyers`, ({ perSecond }) => perSecond),
    price(`p99, ${CONNECTIONS} buyers`, ({ p99 }) => p99),
    price("p50, one buyer", ({ aloneP50 }) => aloneP50),
  ];
}

function tableOf(rounds: readonly Round[]): Table {
  const of = (setting: Setting, value: (measured: Measured) => number) =>
    median(rounds.map((round) => value(round[setting])));
  return {
    title: "A hot event, with and without a replica",
    columns: [
      { name: "replica" },
      { name: "bookings", unit: "/s" },
      { name: "p50", unit: "ms" },
      { name: "p99", unit: "ms" },
      { name: "one buyer: p50", unit: "ms" },
      { name: "one buyer: p99", unit: "ms" },
    ],
    rows: SETTINGS.map((setting) => [
      setting,
      of(setting, ({ perSecond }) => perSecond),
      of(setting, ({ p50 }) => p50),
      of(setting, ({ p99 }) => p99),
      of(setting, ({ aloneP50 }) => aloneP50),
      of(setting, ({ aloneP99 }) => aloneP99),
    ]),
    note: `medians of ${rounds.length} rounds`,
  };
}

interface Replica extends AsyncDisposable {
  /** Switches the primary and waits until it sees the replica so. */
  become(setting: Exclude<Setting, "no replica">, signal: AbortSignal): Promise<void>;
  /** Throws when the primary sees it otherwise. */
  expect(setting: Exclude<Setting, "no replica">): Promise<void>;
}

const STATE: Statement = {
  name: "bench-replica-state",
  text: "select sync_state as state from pg_stat_replication where state = 'streaming'",
};
const RELOAD: Statement = { name: "bench-reload", text: "select pg_reload_conf()" };
const SYNC_STATES = { asynchronous: "async", synchronous: "sync" } as const;

/** A durable one, which is gone with its data in the end; its primary is left as one without. */
async function startReplica(primaryUrl: string): Promise<Replica> {
  await using started = new AsyncDisposableStack();
  const url = new URL(primaryUrl);
  const dataDir = join(tmpdir(), `onsale-bench-replica-${randomUUID()}`, "data");
  started.defer(() => rmSync(dirname(dataDir), { recursive: true, force: true }));
  const primary = started.adopt(new Database({ ...DATABASE, url: primaryUrl }), async (it) => it.close());
  const { password } = url;
  started.use(await startStandbyServer({ url: primaryUrl, password, dataDir, durable: true }));
  const name = (value: string): Statement => ({
    name: `bench-standby-names-${value}`,
    text: `alter system set synchronous_standby_names = '${value}'`,
  });
  const seen = async () => {
    const [replica] = await primary.query<{ state: string }>(STATE);
    return replica?.state ?? "away";
  };
  // Or nothing that is still to be written, such as its events' versions, would ever be confirmed.
  started.defer(async () => {
    await primary.query(name(""));
    await primary.query(RELOAD);
  });
  const running = started.move();
  return {
    async become(setting, signal) {
      await primary.query(name(setting === "synchronous" ? STANDBY_NAME : ""));
      await primary.query(RELOAD);
      const deadline = performance.now() + SWITCH_MAX_MS;
      while ((await seen()) !== SYNC_STATES[setting]) {
        signal.throwIfAborted();
        if (performance.now() > deadline) throw new Error(`the replica is ${await seen()}, not ${setting}`);
        await sleep(50);
      }
    },
    async expect(setting) {
      const state = await seen();
      if (state !== SYNC_STATES[setting]) throw new Error(`the replica became ${state}, not ${setting}`);
    },
    [Symbol.asyncDispose]: async () => running.disposeAsync(),
  };
}
