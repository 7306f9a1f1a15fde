/** Measures what everything costs on this machine, in several rounds, each with every kind of load. */
import { cpus } from "node:os";
import type { BenchCluster } from "../../cluster.ts";
import type { Generator } from "../../load/run.ts";
import type { Progress } from "../../progress.ts";
import { type Calibration, type Costs, type Traffic, trafficMiddle } from "../costs.ts";
import { measureBatchTimes } from "./batch-times.ts";
import { costsOf, type RoundLoad, trafficOf } from "./costs-of.ts";
import { exchange } from "./exchange.ts";
import { expectAnswers, mixFor, requestsFor, setStage, type Stage } from "./loads.ts";
import { measureIdle, measureLoad, PRELOAD_SECONDS, warmUp } from "./measure.ts";
import { Probe, type Sample } from "./probe.ts";
import { withSingles } from "./singles.ts";

interface LoadOfRound {
  readonly kind: RoundLoad["kind"];
  readonly connections: number;
  /** The share of bookings in a mix. */
  readonly bookings?: number;
  /** Each command is a call of its own. */
  readonly singles?: boolean;
  /** The caches are filled before. */
  readonly preloaded?: boolean;
}

/**
 * Few connections make small batches, many make large ones, and calls of one command or of many can be had with either. So
 * what a command, a call and a batch cost can be told apart. Reads are measured alone and in mixes: beside bookings they are
 * dearer, because events change.
 */
const LOADS: readonly LoadOfRound[] = [
  { kind: "refusal", connections: 64 },
  { kind: "read", connections: 256 },
  { kind: "miss", connections: 64, preloaded: true },
  { kind: "cold", connections: 64 },
  { kind: "hot", connections: 256 },
  { kind: "hot", connections: 128, singles: true },
  { kind: "spread", connections: 32 },
  { kind: "spread", connections: 256 },
  { kind: "spread", connections: 32, singles: true },
  { kind: "spread", connections: 128, singles: true },
  { kind: "mix", bookings: 0.05, connections: 256, preloaded: true },
  { kind: "mix", bookings: 0.5, connections: 256, preloaded: true },
];
const EXPECTED = {
  read: ["read"],
  miss: ["read"],
  cold: ["read"],
  refusal: ["refused"],
  hot: ["confirmed"],
  spread: ["confirmed"],
  mix: ["read", "confirmed"],
} as const;
/** That the loads go to, however many there are. */
const SHARDS = 2;
const IDLE_SECONDS = 1;
/** What is made warm before: whoever calibrates has done the same with reads and mixes. */
const WARMED = LOADS.filter(
  ({ kind, connections, singles = false }) =>
    kind === "refusal" || kind === "hot" || (singles && connections === 128),
);
const PRELOADED = LOADS.filter(({ preloaded = false }) => preloaded).length;
/** That a load takes besides. */
const LOAD_SECONDS = 0.6;
const WARM_UP_SECONDS = 0.8;
const WARM_REQUESTS = 6_000;
/** A warm-up may need several loads of a hot event. */
const WARM_UPS_MAX = 24;

/** How long it takes, about. */
export function calibrationSeconds(rounds: number, seconds: number): number {
  return (
    rounds * (LOADS.length * (seconds + LOAD_SECONDS) + PRELOADED * PRELOAD_SECONDS + IDLE_SECONDS + 2) +
    WARMED.length * (WARM_UP_SECONDS + 0.7) +
    3
  );
}

export interface CalibrationOptions {
  readonly generator: Generator;
  readonly rounds: number;
  /** Of each load. */
  readonly seconds: number;
  readonly signal: AbortSignal;
  readonly progress: Progress;
  /** Called before and after the loads of each round: what is compared with its costs is best measured then. */
  readonly around?: () => Promise<void>;
}

/** The cluster needs two shards and a second router, which gets no requests: what it does is to hear of changes. */
export async function calibrate(cluster: BenchCluster, options: CalibrationOptions): Promise<Calibration> {
  const { rounds, seconds, signal, progress } = options;
  if (cluster.routers.length !== 2 || cluster.shards.length < SHARDS)
    throw new Error("a calibration needs two shards and two routers");
  const hotLoads = LOADS.filter(({ kind }) => kind === "hot").length;
  progress.show("calibration: making events");
  const stage = await setStage(cluster, {
    hotLoads: (hotLoads + SHARDS) * rounds + WARM_UPS_MAX,
    shards: SHARDS,
  });
  await using single = await withSingles(cluster, signal);
  await using probe = new Probe(cluster);
  await using singleProbe = new Probe(single.cluster);
  const context: Context = {
    usual: { cluster, probe },
    singles: { cluster: single.cluster, probe: singleProbe },
    stage,
    options,
  };
  for (const load of WARMED) {
    await warmUp(WARM_REQUESTS, async () =>
      runOne(context, { ...load, preloaded: false }, { label: "warming up", seconds: WARM_UP_SECONDS }),
    );
  }

  const all: { costs: Costs; traffic: Traffic; shares: readonly number[] }[] = [];
  for (let round = 1; round <= rounds; round += 1) {
    signal.throwIfAborted();
    const label = `calibration: round ${round} of ${rounds}`;
    progress.show(`${label}, nothing`);
    const idle = await measureIdle(probe, IDLE_SECONDS);
    await options.around?.();
    const loads = await runLoads(context, idle, label, seconds);
    await options.around?.();
    progress.show(`${label}, batches`);
    const { batchTime, shares } = await measureBatchTimes(
      cluster.shards[0]?.databaseUrl ?? "",
      eventsOfFirstShard(stage),
      `batches-${round}`,
    );
    all.push({
      costs: { ...costsOf(loads, idle, cluster.shards.length), batchTime },
      traffic: await measureTraffic(cluster, stage, loads, probe),
      shares,
    });
  }
  return {
    date: new Date().toISOString(),
    processor: cpus()[0]?.model.trim() ?? "unknown",
    rounds: all.map(({ costs }) => costs),
    traffic: trafficMiddle(all.map(({ traffic }) => traffic)),
    batchTimeShares: all.flatMap(({ shares }) => shares).toSorted((a, b) => a - b),
  };
}

interface Seen {
  readonly cluster: BenchCluster;
  readonly probe: Probe;
}

interface Context {
  readonly usual: Seen;
  readonly singles: Seen;
  readonly stage: Stage;
  readonly options: CalibrationOptions;
}

async function runLoads(
  context: Context,
  idle: Sample,
  round: string,
  seconds: number,
): Promise<RoundLoad[]> {
  const loads: RoundLoad[] = [];
  for (const load of LOADS) {
    loads.push(await runOne(context, load, { label: round, seconds, idle }));
  }
  return loads;
}

async function runOne(
  { usual, singles: seenSingles, stage, options: { generator, signal } }: Context,
  { kind, connections, bookings = 0, singles = false, preloaded = false }: LoadOfRound,
  { label, ...options }: { label: string; seconds: number; idle?: Sample },
): Promise<RoundLoad> {
  signal.throwIfAborted();
  const name = `${label}, ${kind} over ${connections} connections`;
  const requests = kind === "mix" ? mixFor(stage, bookings) : requestsFor(kind, stage);
  const measured = await measureLoad(
    singles ? seenSingles : usual,
    [{ generator, router: 0, connections, requests }],
    { label: name, preloadSeconds: preloaded ? PRELOAD_SECONDS : 0, ...options },
  );
  expectAnswers(name, measured, EXPECTED[kind]);
  stage.spreadBookings += measured.sent;
  return { ...measured, kind, connections, singles };
}

async function measureTraffic(
  cluster: BenchCluster,
  stage: Stage,
  loads: readonly RoundLoad[],
  probe: Probe,
): Promise<Traffic> {
  const { hostname, port } = new URL(cluster.router.url);
  const target = { host: hostname, port: Number(port) };
  const [read, refusal, booking] = [
    await exchange(target, requestsFor("read", stage)),
    await exchange(target, requestsFor("refusal", stage)),
    await exchange(target, requestsFor("spread", stage)),
  ];
  stage.spreadBookings += 1;
  return trafficOf(
    loads,
    { read, refusal, booking },
    { routers: cluster.routers.length + 1, kept: await probe.keptBytes() },
  );
}

/** Events are dealt to the shards in turns: one that everybody books, and many. */
function eventsOfFirstShard({ spread: all, hot: fresh, shards }: Stage) {
  const spread = all.filter((_, index) => index % shards === 0);
  const last = Math.floor((fresh.length - 1) / shards) * shards;
  const [hot] = fresh.splice(last);
  if (hot === undefined) throw new Error("there is no fresh event left");
  return { hot, spread };
}
