/** What is asked of a cluster, and what of it gets past the memory of routers and past Redis. All rates are per second. */
import type { Catalogue } from "./popularity.ts";
import { PUBLISH_PAUSE_MS, PUBLISHED_MAX, READ_FRESH_MS, REDIS_KEEPS_MS } from "./product.ts";

export interface Demand {
  readonly reads: number;
  /** Bookings that routers refuse from memory. */
  readonly refusals: number;
  /** Bookings that shards decide: of the mega event, and of all others. */
  readonly hot: number;
  readonly spread: number;
  /** The share of reads that ask for the mega event. */
  readonly hotReads: number;
}

export function demandOf(options: { rps: number; bookings: number; soldOut: number; hot: number }): Demand {
  const bookings = options.rps * options.bookings;
  const decided = bookings * (1 - options.soldOut);
  return {
    reads: options.rps - bookings,
    refusals: bookings - decided,
    hot: decided * options.hot,
    spread: decided * (1 - options.hot),
    hotReads: options.hot,
  };
}

/** Reads that no router's memory answers: one read of an event misses, memory answers for a while, the next one misses. */
export function missesOf(demand: Demand, catalogue: Catalogue, routers: number): number {
  const fresh = READ_FRESH_MS / 1000;
  const missesOfOne = sumOverEvents(catalogue, demand, ({ reads }) => {
    const seen = reads / routers;
    return seen / (1 + seen * fresh);
  });
  return missesOfOne * routers;
}

/** Misses that Redis cannot answer either; once a shard has, it answers for some seconds. */
export function shardReadsOf(demand: Demand, catalogue: Catalogue, misses: number): number {
  const share = demand.reads === 0 ? 0 : misses / demand.reads;
  return sumOverEvents(catalogue, demand, ({ reads }) => {
    const missed = reads * share;
    return missed / (1 + (missed * REDIS_KEEPS_MS) / 1000);
  });
}

/** Changed events that Redis tells of, and the calls that carry them; an event that changes in a pause is told of once. */
export function publishedOf(
  demand: Demand,
  catalogue: Catalogue,
  shards: number,
): { readonly events: number; readonly calls: number } {
  const pause = PUBLISH_PAUSE_MS / 1000;
  const changed = sumOverEvents(catalogue, demand, ({ bookings }) => bookings / (1 + bookings * pause));
  const ofShard = Math.min(changed / shards, PUBLISHED_MAX / pause);
  return { events: ofShard * shards, calls: Math.min(ofShard, 1 / pause) * shards };
}

function sumOverEvents(
  { shares }: Catalogue,
  demand: Demand,
  term: (rate: { readonly reads: number; readonly bookings: number }) => number,
): number {
  let sum = term({ reads: demand.reads * demand.hotReads, bookings: demand.hot });
  const reads = demand.reads * (1 - demand.hotReads);
  for (const share of shares) {
    if (share > 0) sum += term({ reads: reads * share, bookings: demand.spread * share });
  }
  return sum;
}
