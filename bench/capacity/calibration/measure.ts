/** One load on a cluster, with everything that it cost. */
import { setTimeout as sleep } from "node:timers/promises";
import type { BenchCluster } from "../../cluster.ts";
import type { LoadPlan, LoadReport } from "../../load/plan.ts";
import type { Generator } from "../../load/run.ts";
import { between, type Probe, type Sample } from "./probe.ts";
import { exactSeconds } from "./processor-time.ts";

/** How long it may take to notice that a load has begun; it lasts so much longer than it is measured. */
const SLACK_SECONDS = 0.15;
const LOOK_EVERY_MS = 15;

/** After some seconds without requests all caches of events are empty. A load of many events fills them for so long. */
export const PRELOAD_SECONDS = 1.2;

/** What a load did in the middle of it; processor time without what the processes use when nothing is asked of them. */
export interface Measured extends Sample {
  /** Answers a second. */
  readonly perSecond: number;
  /** Processor microseconds of the load generator for a request. */
  readonly generator: number;
  /** Cores that processes used which are no part of this: they were missing. */
  readonly others: number;
  /** Requests of the whole load. */
  readonly sent: number;
  readonly reports: readonly LoadReport[];
}

export interface Stream {
  readonly generator: Generator;
  /** The number of the router that gets it. */
  readonly router: number;
  readonly connections: number;
  readonly requests: LoadPlan["requests"];
}

/** What the processes do while nothing is asked of them. */
export async function measureIdle(probe: Probe, seconds: number): Promise<Sample> {
  const before = await probe.sample("the start");
  await sleep(seconds * 1000);
  return between(before, await probe.sample("the end"));
}

const WARM_MAX_SECONDS = 10;

/** Repeats a load for so many requests, which the compilers of all processes learn from, unless it takes too long. */
export async function warmUp(requests: number, load: () => Promise<Measured>): Promise<void> {
  const started = performance.now();
  let sent = 0;
  while (sent < requests && performance.now() - started < WARM_MAX_SECONDS * 1000)
    sent += (await load()).sent;
}

/** Runs one stream; with 0 seconds until each of its requests was sent once. */
export async function send(
  { router: first, routers }: BenchCluster,
  { generator, router, connections, requests }: Stream,
  { label, seconds }: { label: string; seconds: number },
): Promise<LoadReport> {
  const { hostname, port } = new URL((routers[router] ?? first).url);
  const target = { host: hostname, port: Number(port) };
  return generator.run({ target, connections, warmUpSeconds: 0, seconds, requests }, label);
}

export interface MeasureOptions {
  readonly label: string;
  readonly seconds: number;
  /** For so long the load runs before anything counts. */
  readonly preloadSeconds?: number;
  /** Taken off, in proportion to the time, when given. */
  readonly idle?: Sample;
}

/**
 * Runs streams of requests at the same time, in the closed model. What counts is a time in the middle: that tokens are
 * minted and connections made before, and how many there are, makes no difference to it.
 */
export async function measureLoad(
  { cluster, probe }: { cluster: BenchCluster; probe: Probe },
  streams: readonly Stream[],
  options: MeasureOptions,
): Promise<Measured> {
  const { label, seconds, preloadSeconds = 0, idle } = options;
  const generators = () => streams.reduce((sum, { generator }) => sum + exactSeconds(generator.pid), 0);
  const clients = streams.reduce((sum, { connections }) => sum + connections, 0);
  const begun = (await probe.answered()) + clients;
  const load = Promise.all(
    streams.map(async (stream) =>
      send(cluster, stream, { label, seconds: preloadSeconds + seconds + SLACK_SECONDS }),
    ),
  );
  await Promise.race([load, reached(begun, async () => probe.answered())]);
  await sleep(preloadSeconds * 1000);
  const before = await probe.sample("the start");
  const usedBefore = generators();
  await sleep(seconds * 1000);
  const used = generators() - usedBefore;
  const did = between(before, await probe.sample("the end"));
  const reports = await load;
  const ours = used + did.router + did.listener + did.nodes + did.postgres + did.redis;
  const busy = (name: "router" | "listener" | "nodes" | "postgres" | "redis") =>
    Math.max(0, did[name] - (idle === undefined ? 0 : (idle[name] / idle.seconds) * did.seconds));
  return {
    ...did,
    router: busy("router"),
    listener: busy("listener"),
    nodes: busy("nodes"),
    postgres: busy("postgres"),
    redis: busy("redis"),
    perSecond: did.requests / did.seconds,
    generator: (used * 1e6) / Math.max(1, did.requests),
    others: Math.max(0, did.machine - ours) / did.seconds,
    sent: reports.reduce((sum, { sent }) => sum + sent, 0),
    reports,
  };
}

async function reached(wanted: number, count: () => Promise<number>): Promise<void> {
  while ((await count()) < wanted) await sleep(LOOK_EVERY_MS);
}
