/** The costs and the traffic of a round, out of what its loads did. */
import type { Costs, Traffic } from "../costs.ts";
import { nonNegativeCosts } from "../fit.ts";
import type { Exchange } from "./exchange.ts";
import type { LoadKind } from "./loads.ts";
import type { Measured } from "./measure.ts";
import type { Sample } from "./probe.ts";

const MICROSECONDS = 1e6;
/** Headers of Ethernet, IP and TCP around each of the two packets of a request. */
const FRAMES_BYTES = 2 * 66;

export interface RoundLoad extends Measured {
  readonly kind: LoadKind | "mix";
  readonly connections: number;
  /** Each command was a call of its own. */
  readonly singles: boolean;
}

/** How often a load had each thing done that costs something. */
interface Counts {
  readonly hits: number;
  readonly misses: number;
  readonly hot: number;
  readonly spread: number;
  readonly hotBatches: number;
  readonly spreadBatches: number;
}

/** `shards` is how many the processes of the cluster serve. Processor times become microseconds. */
export function costsOf(loads: readonly RoundLoad[], idle: Sample, shards: number): Omit<Costs, "batchTime"> {
  const refusal = busiest(all(loads, "refusal"));
  const observed = weighted(loads.filter(({ kind }) => kind !== "refusal")).map((load) => ({
    load,
    did: countsOf(load),
  }));
  /** Of every load a share of the cost for each thing that it had done. */
  const fit = (
    cost: (load: RoundLoad) => number,
    counts: (did: Counts, load: RoundLoad) => readonly number[],
  ) =>
    nonNegativeCosts(
      observed.map(({ load, did }) => ({ counts: counts(did, load), cost: Math.max(0, cost(load)) })),
    ).map(micro);

  const heard =
    sum(loads, (load) => load.listener) /
    Math.max(
      1,
      sum(loads, (load) => load.published),
    );
  const [hit = 0, miss = 0, routerRead = 0, routerHot = 0, routerSpread = 0, routerCall = 0] = fit(
    (load) => load.router - heard * load.published,
    ({ hits, misses, hot, spread }, { calls, shardReads }) => [hits, misses, shardReads, hot, spread, calls],
  );
  const [nodeHot = 0, nodeSpread = 0, nodeCall = 0, nodeBatch = 0, nodeRead = 0] = fit(
    (load) => load.nodes,
    ({ hot, spread }, { calls, batches, shardReads }) => [hot, spread, calls, batches, shardReads],
  );
  const [postgresHot = 0, postgresSpread = 0, batchHot = 0, batchSpread = 0, postgresRead = 0] = fit(
    (load) => load.postgres,
    ({ hot, spread, hotBatches, spreadBatches }, { shardReads }) => [
      hot,
      spread,
      hotBatches,
      spreadBatches,
      shardReads,
    ],
  );
  const [redisPublished = 0, redisMiss = 0, redisRead = 0] = fit(
    (load) => load.redis,
    ({ misses }, { published, shardReads }) => [Math.max(0, published), misses, shardReads],
  );
  const [generatorRead = 0, generatorBooking = 0] = fit(
    (load) => (load.generator * load.requests) / MICROSECONDS,
    ({ hits, misses, hot, spread }) => [hits + misses, hot + spread],
  );
  const idleSecond = (name: "router" | "nodes" | "postgres" | "redis", processes = 1) =>
    micro(idle[name] / idle.seconds / processes);
  return {
    router: {
      read: hit,
      miss,
      eventRead: routerRead,
      refusal: micro(refusal.router / refusal.requests),
      booking: { hot: routerHot, spread: routerSpread },
      call: routerCall,
      heard: micro(heard),
      idleSecond: idleSecond("router"),
    },
    node: {
      booking: { hot: nodeHot, spread: nodeSpread },
      call: nodeCall,
      batch: nodeBatch,
      eventRead: nodeRead,
      idleSecond: idleSecond("nodes", shards),
    },
    postgres: {
      booking: { hot: postgresHot, spread: postgresSpread },
      batch: { hot: batchHot, spread: batchSpread },
      eventRead: postgresRead,
      idleSecond: idleSecond("postgres", shards),
    },
    redis: {
      published: redisPublished,
      miss: redisMiss,
      eventRead: redisRead,
      idleSecond: idleSecond("redis"),
    },
    generator: { read: generatorRead, refusal: refusal.generator, booking: generatorBooking },
  };
}

/**
 * Mixes count as much as all other loads together. Everything is somewhat dearer beside everything else, which is what a
 * cluster has to do; loads of one kind are there to tell the costs apart.
 */
function weighted(loads: readonly RoundLoad[]): RoundLoad[] {
  const mixes = all(loads, "mix");
  const others = loads.filter(({ kind }) => kind !== "mix");
  const times = mixes.length === 0 ? 0 : Math.max(1, Math.round(others.length / mixes.length));
  return [...others, ...Array.from({ length: times }, () => mixes).flat()];
}

function countsOf(load: RoundLoad): Counts {
  const bookings = load.batched;
  const hot = load.kind === "hot";
  return {
    hits: Math.max(0, load.requests - bookings - load.misses),
    misses: load.misses,
    hot: hot ? bookings : 0,
    spread: hot ? 0 : bookings,
    hotBatches: hot ? load.batches : 0,
    spreadBatches: hot ? 0 : load.batches,
  };
}

/** Bytes, from the loads with most connections: they are the least disturbed by what the processes say anyway. */
export function trafficOf(
  loads: readonly RoundLoad[],
  exchanges: Pick<Traffic, "read" | "refusal"> & { readonly booking: Exchange },
  options: { readonly routers: number; readonly kept: number },
): Traffic {
  const [hot, spread] = [busiest(all(loads, "hot")), busiest(all(loads, "spread"))];
  const { booking } = exchanges;
  const inside = (load: RoundLoad) =>
    Math.max(
      0,
      (load.loopback - load.redisIn - load.redisOut) / load.requests -
        booking.request -
        booking.answer -
        FRAMES_BYTES,
    );
  const published = Math.max(1, spread.published);
  return {
    ...exchanges,
    booking: { request: booking.request, answer: booking.answer },
    inside: { hot: inside(hot), spread: inside(spread) },
    published: { in: spread.redisIn / published, out: spread.redisOut / published / options.routers },
    publishedCommands: spread.redisCommands / published,
    kept: options.kept,
    log: { hot: hot.log / hot.requests, spread: spread.log / spread.requests },
    growth: Math.max(0, spread.size / spread.requests),
  };
}

function all(loads: readonly RoundLoad[], kind: RoundLoad["kind"]): RoundLoad[] {
  return loads.filter((load) => load.kind === kind);
}

function busiest(loads: readonly RoundLoad[]): RoundLoad {
  const [first] = loads.toSorted((a, b) => b.connections - a.connections);
  if (first === undefined) throw new Error("a round lacks a kind of load");
  return first;
}

function sum(loads: readonly RoundLoad[], of: (load: RoundLoad) => number): number {
  return loads.reduce((total, load) => total + of(load), 0);
}

function micro(seconds: number): number {
  return Math.max(0, seconds * MICROSECONDS);
}
