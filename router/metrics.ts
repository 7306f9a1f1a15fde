/** What a router measures. The help of each metric says which question it answers. */
import {
  HttpMetrics,
  instruments,
  LATENCY_BUCKETS,
  type Registry,
  SIZE_BUCKETS,
} from "../shared/watch/metrics.ts";
import { CONNECTION_SHED } from "../shared/process/connections.ts";
import { REDIS_FAILURES } from "../shared/redis/redis.ts";
import type { ShardId } from "../shared/domain/ids.ts";
import type { CommandResult } from "../shared/domain/outcomes.ts";
import type { CacheTier } from "./cache/event-cache.ts";
import { TOKEN_FAULTS } from "./callers/tokens.ts";
import type { ShardClient } from "./shards/shard-client.ts";

export type RouterMetrics = ReturnType<typeof createRouterMetrics>;

interface Watched {
  readonly shards: () => readonly ShardClient[];
  readonly redisUp: () => boolean;
  readonly queueUp: () => boolean;
  readonly readSideUp: () => boolean;
}

export function createRouterMetrics(registry: Registry) {
  const { labelled, tally, counters, read } = instruments(registry);
  const outcomes = tally(
    "onsale_booking_outcomes_total",
    "Booking commands by outcome: are we selling, and if not, why?",
    ["outcome"],
  );
  const soldOutFast = tally(
    "onsale_sold_out_fast_rejects_total",
    "Booking commands refused from memory because the event is sold out.",
  ).of({});
  const cacheRequests = tally(
    "onsale_event_cache_requests_total",
    "Event reads by the tier that was asked and what it had.",
    ["tier", "result"],
  );
  const lists = counters(
    "onsale_list_cache_requests_total",
    "Lists of events by whether memory had the page.",
    "result",
    ["hit", "miss"],
  );
  const batchSize = labelled(
    "onsale_shard_rpc_batch_size",
    "Commands or reads carried by one call to a shard.",
    ["shard"],
    SIZE_BUCKETS,
  );
  const duration = labelled(
    "onsale_shard_rpc_duration_seconds",
    "Time of one call to a shard.",
    ["shard"],
    LATENCY_BUCKETS,
  );
  // They start at 0, so that a rate shows the first refusal and the first sale.
  const shed = counters("onsale_shed_total", "Work refused because it could not be done in time.", "reason", [
    "shard_queue_full",
    "shard_queue_slow",
    "event_overloaded",
    "user_busy",
    "deadline",
    "node_busy",
    "rate_limited",
    "queue_full",
    "streams_of_user",
    "streams_full",
    "reads_of_user",
    "reads_full",
    "exports_full",
    ...CONNECTION_SHED,
  ]);
  const unauthenticated = counters(
    "onsale_unauthenticated_total",
    "Requests refused because of their token: is an issuer set wrong, or does somebody forge?",
    "reason",
    ["missing", ...TOKEN_FAULTS],
  );
  const redisFailed = counters(
    "onsale_redis_failures_total",
    "Calls to Redis that failed: is it away, is it full, or does it refuse?",
    "reason",
    REDIS_FAILURES,
  );
  for (const outcome of ["booked", "held", "confirmed"]) outcomes.of({ outcome });
  const tiersOf = (tier: CacheTier) => ({
    hit: cacheRequests.of({ tier, result: "hit" }),
    miss: cacheRequests.of({ tier, result: "miss" }),
  });
  const tiers = { memory: tiersOf("memory"), redis: tiersOf("redis"), shard: tiersOf("shard") };

  return {
    http: new HttpMetrics(registry),
    outcome: (outcome: CommandResult["outcome"]) => outcomes.of({ outcome }).add(),
    soldOutFast: () => soldOutFast.add(),
    cacheRead: (tier: CacheTier, result: "hit" | "miss") => tiers[tier][result].add(),
    listRead: (result: "hit" | "miss") => lists(result),
    called(shard: ShardId, size: number, seconds: number): void {
      batchSize.labels(shard).observe(size);
      duration.labels(shard).observe(seconds);
    },
    shed,
    unauthenticated,
    redisFailed,
    /** Adds the figures that are read at each scrape. */
    watch({ shards, redisUp, queueUp, readSideUp }: Watched): void {
      read(
        "onsale_shard_breaker_open",
        "1 while no node of the shard may be called.",
        () => shards().map(({ id, open }) => [id, Number(open)]),
        "shard",
      );
      read("onsale_redis_up", "1 while the connection to Redis works.", () => Number(redisUp()));
      read("onsale_queue_up", "1 while the connection to RabbitMQ works.", () => Number(queueUp()));
      read("onsale_read_side_up", "1 while the read side may be asked.", () => Number(readSideUp()));
    },
  };
}
