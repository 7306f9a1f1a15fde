/** The settings of a shard node. Every bound has a name, a unit and a default that fits one shard on a few cores. */
import { hostname } from "node:os";
import { z } from "zod";
import { drainGraceMs, host, integer, logLevel, port, secret, urlOf } from "../shared/process/config.ts";
import { postgresUrl } from "../shared/database/url.ts";
import { shardIdSchema } from "../shared/wire/shard-map.ts";
import { tracingSettings } from "../shared/watch/start-tracing.ts";

export const nodeConfig = z
  .object({
    SHARD_ID: shardIdSchema,
    DATABASE_URL: postgresUrl,
    CATALOG_URL: postgresUrl,
    /** Replicas of the shard's database, one a host; they answer lists and reads of events while they are fresh. */
    REPLICA_URL: postgresUrl.optional(),
    /** Memory answers reads for 800 ms (router/cache/event-cache.ts); what is older than that could not be kept at all. */
    REPLICA_LAG_MAX_MS: integer({ min: 1, max: 800, default: 500 }),
    INTERNAL_TOKEN: secret,
    /** Routers that still send this one are answered too, while the token is exchanged. */
    INTERNAL_TOKEN_PREVIOUS: secret.optional(),
    REDIS_URL: urlOf("redis", "rediss").optional(),
    HOST: host,
    /** Where the admin port listens; by default where the RPC does. */
    ADMIN_HOST: host.unwrap().optional(),
    PORT: port(9090),
    ADMIN_PORT: port(9091),
    /** Where routers reach this node, `{hostname}` being this machine's; by default the address it listens on. */
    ADVERTISE_URL: z
      .string()
      .transform((url) => url.replace("{hostname}", hostname()))
      .pipe(urlOf("http", "https"))
      .optional(),
    LOG_LEVEL: logLevel,
    DRAIN_GRACE_MS: drainGraceMs,
    LANES: integer({ min: 1, max: 32, default: 2 }),
    LANE_BATCH_MAX: integer({ min: 1, max: 5_000, default: 500 }),
    LANE_QUEUE_MAX: integer({ min: 1, max: 100_000, default: 5_000 }),
    /** Connections for reads, events, sweeps and samples, besides the one that each lane has. */
    READ_CONNECTIONS: integer({ min: 1, max: 100, default: 2 }),
    POOL_WAITERS_MAX: integer({ min: 1, max: 10_000, default: 200 }),
    CONNECT_TIMEOUT_MS: integer({ min: 50, max: 60_000, default: 2_000 }),
    STATEMENT_TIMEOUT_MS: integer({ min: 50, max: 60_000, default: 4_000 }),
    LOCK_TIMEOUT_MS: integer({ min: 50, max: 60_000, default: 2_000 }),
    HOLD_SWEEP_INTERVAL_MS: integer({ min: 50, max: 60_000, default: 1_000 }),
    HOLD_SWEEP_EVENTS_MAX: integer({ min: 1, max: 5_000, default: 200 }),
    ...tracingSettings,
  })
  .refine(({ HOST, ADVERTISE_URL }) => ADVERTISE_URL !== undefined || (HOST !== "0.0.0.0" && HOST !== "::"), {
    path: ["ADVERTISE_URL"],
    message: "is required when HOST means every address: routers cannot call that",
    when: () => true,
  });
export type NodeConfig = z.infer<typeof nodeConfig>;
