/** The settings of a shard node. Every bound has a name, a unit and a default that fits one shard on a few cores. */
import { hostname } from "node:os";
import { z } from "zod";
import { drainGraceMs, host, integer, logLevel, port, secret, urlOf } from "../shared/process/config.ts";
import { REQUEST_MAX_AGE_SECONDS } from "../shared/domain/requests.ts";
import { postgresUrl } from "../shared/database/url.ts";
import { shardIdSchema } from "../shared/wire/shard-map.ts";
import { WEBHOOK_TARGETS } from "./webhooks/targets.ts";
import { tracingSettings } from "../shared/watch/start-tracing.ts";

export const nodeConfig = z
  .object({
    SHARD_ID: shardIdSchema,
    DATABASE_URL: postgresUrl,
    CATALOG_URL: postgresUrl,
    /** Replicas of the shard's database, one a host. While they are fresh, they answer lists and reads of events. */
    REPLICA_URL: postgresUrl.optional(),
    /** A router's memory keeps events for 800 ms (router/cache/event-cache.ts), so it could not keep anything older. */
    REPLICA_LAG_MAX_MS: integer({ min: 1, max: 800, default: 500 }),
    INTERNAL_TOKEN: secret,
    /** Also admitted, while the token is being changed. */
    INTERNAL_TOKEN_PREVIOUS: secret.optional(),
    REDIS_URL: urlOf("redis", "rediss").optional(),
    /** RabbitMQ, whose queues hold booking requests; without it there are none. */
    AMQP_URL: urlOf("amqp", "amqps").optional(),
    /** A booking request that is older is not decided any more. Its outcome is kept for a day. */
    QUEUE_MAX_AGE_SECONDS: integer({ min: 1, max: 3_600, default: REQUEST_MAX_AGE_SECONDS }),
    HOST: host,
    /** Where the admin port listens; HOST by default. */
    ADMIN_HOST: host.unwrap().optional(),
    PORT: port(9090),
    ADMIN_PORT: port(9091),
    /** Where routers reach this node; by default the address it listens on. `{hostname}` becomes this machine's name. */
    ADVERTISE_URL: z
      .string()
      .transform((url) => url.replace("{hostname}", hostname()))
      .pipe(urlOf("http", "https"))
      .optional(),
    LOG_LEVEL: logLevel,
    DRAIN_GRACE_MS: drainGraceMs,
    LANES: integer({ min: 1, max: 32, default: 2 }),
    LANE_BATCH_MAX: integer({ min: 1, max: 5_000, default: 500 }),
    /** Commands that may wait for a batch, for each lane. One event takes at most half of the places. */
    LANE_QUEUE_MAX: integer({ min: 1, max: 100_000, default: 5_000 }),
    /** A command that would wait longer for its batch is refused. */
    LANE_WAIT_MAX_MS: integer({ min: 10, max: 60_000, default: 1_000 }),
    /** Commands of one user for one event that may be under way here. A router admits fewer, and there are several routers. */
    USER_COMMANDS_MAX: integer({ min: 1, max: 1_000, default: 10 }),
    /** Connections for reads, events and sweeps, besides those of the lanes. */
    READ_CONNECTIONS: integer({ min: 1, max: 100, default: 2 }),
    POOL_WAITERS_MAX: integer({ min: 1, max: 10_000, default: 200 }),
    CONNECT_TIMEOUT_MS: integer({ min: 50, max: 60_000, default: 2_000 }),
    STATEMENT_TIMEOUT_MS: integer({ min: 50, max: 60_000, default: 4_000 }),
    LOCK_TIMEOUT_MS: integer({ min: 50, max: 60_000, default: 2_000 }),
    HOLD_SWEEP_INTERVAL_MS: integer({ min: 50, max: 60_000, default: 1_000 }),
    HOLD_SWEEP_EVENTS_MAX: integer({ min: 1, max: 5_000, default: 200 }),
    /** How long the log of changes is kept for those who follow it. */
    LOG_RETENTION_HOURS: integer({ min: 1, max: 8_760, default: 48 }),
    /** Where webhooks may lead. */
    WEBHOOK_TARGETS: z.enum(WEBHOOK_TARGETS, { error: "must be none, public or any" }).default("public"),
    ...tracingSettings,
  })
  .refine(({ HOST, ADVERTISE_URL }) => ADVERTISE_URL !== undefined || (HOST !== "0.0.0.0" && HOST !== "::"), {
    path: ["ADVERTISE_URL"],
    message: "is required when HOST means every address: routers cannot call that",
    when: () => true,
  });
export type NodeConfig = z.infer<typeof nodeConfig>;
