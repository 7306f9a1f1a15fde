/** What a router measures. The help of each metric says which question it answers. */
import {
  Counter,
  Gauge,
  Histogram,
  HttpMetrics,
  LATENCY_BUCKETS,
  type Registry,
  SIZE_BUCKETS,
  Tally,
} from "../shared/watch/metrics.ts";
import type { ShardId } from "../shared/domain/ids.ts";
import type { CommandResult } from "../shared/domain/outcomes.ts";
import type { CacheTier } from "./cache/event-cache.ts";
import type { ShardClient, ShardObserver } from "./shards/shard-client.ts";

export interface RouterMetrics extends ShardObserver {
  readonly http: HttpMetrics;
  outcome(outcome: CommandResult["outcome"]): void;
  soldOutFast(): void;
  cacheRead(tier: CacheTier, result: "hit" | "miss"): void;
  rateLimited(): void;
  connectionRefused(): void;
  /** Adds the gauges, which are read at each scrape. */
  watch(sources: { shards: () => readonly ShardClient[]; redisUp: () => boolean }): void;
}

export function createRouterMetrics(registry: Registry): RouterMetrics {
  const registers = [registry];
  const outcomes = new Tally({
    name: "onsale_booking_outcomes_total",
    help: "Booking commands by outcome: are we selling, and if not, why?",
    labelNames: ["outcome"] as const,
    registry,
  });
  const soldOutFast = new Tally({
    name: "onsale_sold_out_fast_rejects_total",
    help: "Booking commands refused from memory because the event is sold out.",
    registry,
  }).of({});
  const cacheRequests = new Tally({
    name: "onsale_event_cache_requests_total",
    help: "Event reads by the tier that was asked and what it had.",
    labelNames: ["tier", "result"] as const,
    registry,
  });
  const batchSize = new Histogram({
    name: "onsale_shard_rpc_batch_size",
    help: "Commands or reads carried by one call to a shard.",
    labelNames: ["shard"] as const,
    buckets: SIZE_BUCKETS,
    registers,
  });
  const duration = new Histogram({
    name: "onsale_shard_rpc_duration_seconds",
    help: "Time of one call to a shard.",
    labelNames: ["shard"] as const,
    buckets: LATENCY_BUCKETS,
    registers,
  });
  const shed = new Counter({
    name: "onsale_shed_total",
    help: "Work refused because it could not be done in time.",
    labelNames: ["reason"] as const,
    registers,
  });
  // They start at 0, so that a rate shows the first refusal and the first sale.
  for (const reason of ["shard_queue_full", "deadline", "node_busy", "rate_limited", "connections_full"])
    shed.inc({ reason }, 0);
  const cacheReads = (tier: CacheTier) => ({
    hit: cacheRequests.of({ tier, result: "hit" }),
    miss: cacheRequests.of({ tier, result: "miss" }),
  });
  const tiers = { memory: cacheReads("memory"), redis: cacheReads("redis"), shard: cacheReads("shard") };
  const outcomeTallies = new Map<CommandResult["outcome"], { add(): void }>();
  const outcomeTally = (outcome: CommandResult["outcome"]): { add(): void } => {
    let tally = outcomeTallies.get(outcome);
    if (tally === undefined) outcomeTallies.set(outcome, (tally = outcomes.of({ outcome })));
    return tally;
  };
  for (const outcome of ["booked", "held", "confirmed"] as const) outcomeTally(outcome);
  const callChildren = new Map<
    ShardId,
    { size: { observe(v: number): void }; seconds: { observe(v: number): void } }
  >();

  return {
    http: new HttpMetrics(registry),
    outcome: (outcome) => outcomeTally(outcome).add(),
    soldOutFast: () => soldOutFast.add(),
    cacheRead: (tier, result) => tiers[tier][result].add(),
    called(shard, size, seconds) {
      let child = callChildren.get(shard);
      if (child === undefined) {
        child = { size: batchSize.labels(shard), seconds: duration.labels(shard) };
        callChildren.set(shard, child);
      }
      child.size.observe(size);
      child.seconds.observe(seconds);
    },
    shed: (reason) => shed.inc({ reason }),
    rateLimited: () => shed.inc({ reason: "rate_limited" }),
    connectionRefused: () => shed.inc({ reason: "connections_full" }),
    watch({ shards, redisUp }) {
      new Gauge({
        name: "onsale_shard_breaker_open",
        help: "1 while no node of the shard may be called.",
        labelNames: ["shard"] as const,
        registers,
        collect() {
          for (const shard of shards()) this.set({ shard: shard.id }, Number(shard.open));
        },
      });
      new Gauge({
        name: "onsale_redis_up",
        help: "1 while the connection to Redis works.",
        registers,
        collect() {
          this.set(Number(redisUp()));
        },
      });
    },
  };
}
