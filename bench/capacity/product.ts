/** The bounds and periods of the product that shape how it scales, read from its own settings where it has them. */
import { routerConfig } from "../../router/config.ts";
import { nodeConfig } from "../../shard-node/config.ts";
import { BATCHES_PER_LANE_MAX } from "../../shard-node/decide/lanes.ts";
import { readConfig } from "../../shared/process/config.ts";

const SECRET = "-".repeat(32);
const router = readConfig(routerConfig, {
  NODE_URLS: "http://127.0.0.1",
  INTERNAL_TOKEN: SECRET,
  AUTH_JWT_SECRET: SECRET,
});
const node = readConfig(nodeConfig, {
  SHARD_ID: "shard-0",
  DATABASE_URL: "postgres://127.0.0.1",
  CATALOG_URL: "postgres://127.0.0.1",
  INTERNAL_TOKEN: SECRET,
});

export interface Limits {
  readonly lanes: number;
  readonly batchMax: number;
  readonly laneQueueMax: number;
  /** Commands in a call of a router to a shard, calls under way, commands that wait for a call. */
  readonly callMax: number;
  readonly inFlightMax: number;
  readonly callQueueMax: number;
  readonly deadlineMs: number;
}

export const LIMITS: Limits = {
  lanes: node.LANES,
  batchMax: node.LANE_BATCH_MAX,
  laneQueueMax: node.LANE_QUEUE_MAX,
  callMax: router.RPC_BATCH_MAX,
  inFlightMax: router.RPC_IN_FLIGHT_MAX,
  callQueueMax: router.SHARD_QUEUE_MAX,
  deadlineMs: router.COMMAND_DEADLINE_MS,
};
/** Connections that a node has to its shard, and one to the catalog. */
export const DATABASE_CONNECTIONS = node.LANES * BATCHES_PER_LANE_MAX + node.READ_CONNECTIONS + 1;
/** A router's connections to Redis (one hears), and a node's. */
export const REDIS_CONNECTIONS = { router: 2, node: 1 };
/** Open connections that a router takes from clients. */
export const CLIENT_CONNECTIONS_MAX = router.CONNECTIONS_MAX;

/** How long memory answers reads (router/cache/event-cache.ts). */
export const READ_FRESH_MS = 800;
/** How long Redis keeps what was read or has changed (shared/redis/redis.ts). */
export const REDIS_KEEPS_MS = 5_000;
/** The pause after a publication of changed events, and how many it carries (shard-node/node.ts). */
export const PUBLISH_PAUSE_MS = 10;
export const PUBLISHED_MAX = 200;
/** How long a router leaves a shard alone after it has failed (router/shards/node-client.ts). */
export const BREAKER_OPEN_MS = 1_000;
