/** The databases of a node. Each kind of work has connections of its own, so no flood of one starves another. */
import { Database, type DatabaseObserver } from "../shared/database/database.ts";
import { serverUrls } from "../shared/database/url.ts";
import type { NodeConfig } from "./config.ts";
import { BATCHES_PER_LANE_MAX } from "./decide/lanes.ts";

/** The bound of a connection and of a statement at a replica: short enough to ask the primary afterwards. */
const REPLICA_TIMEOUT_MS = 500;

/** How long a read waits for a connection. */
const READ_WAIT_MAX_MS = 1_000;

/** The bound of a check of the primary. Whoever needs longer does not sell. */
const CHECK_TIMEOUT_MS = 1_000;

export type NodeDatabases = ReturnType<typeof createDatabases>;

/** Connects to nothing yet. */
export function createDatabases(config: NodeConfig, observer: DatabaseObserver) {
  const common = {
    applicationName: `onsale ${config.SHARD_ID}`,
    waitersMax: config.POOL_WAITERS_MAX,
    connectTimeoutMs: config.CONNECT_TIMEOUT_MS,
    statementTimeoutMs: config.STATEMENT_TIMEOUT_MS,
    lockTimeoutMs: config.LOCK_TIMEOUT_MS,
  };
  const toPrimary = (connectionsMax: number, statementTimeoutMs = config.STATEMENT_TIMEOUT_MS): Database =>
    new Database({ ...common, url: config.DATABASE_URL, connectionsMax, statementTimeoutMs, observer });
  const toReplica = (url: string): Database =>
    new Database({
      ...common,
      url,
      connectionsMax: config.READ_CONNECTIONS,
      connectTimeoutMs: REPLICA_TIMEOUT_MS,
      statementTimeoutMs: REPLICA_TIMEOUT_MS,
      lockTimeoutMs: REPLICA_TIMEOUT_MS,
      readOnly: true,
      observer,
    });
  const replicas = serverUrls(config.REPLICA_URL ?? "").map((url) => ({ url, database: toReplica(url) }));
  const batches = toPrimary(config.LANES * BATCHES_PER_LANE_MAX);
  // Reads, events and sweeps. A router hears that all are taken before its call is over (READ_DEADLINE_MS): else its breaker
  // would take the node for one that is away, and keep bookings out too.
  const others = new Database({
    ...common,
    url: config.DATABASE_URL,
    connectionsMax: config.READ_CONNECTIONS,
    connectTimeoutMs: Math.min(config.CONNECT_TIMEOUT_MS, READ_WAIT_MAX_MS),
    observer,
  });
  // What the node finds out for itself: does the primary write, what happens in it, how old are the replicas? No flood of
  // work may delay that.
  const checks = toPrimary(Math.max(1, replicas.length), CHECK_TIMEOUT_MS);
  /** All that lead to the shard's primary. */
  const shard: readonly Database[] = [batches, others, checks];
  const catalog = new Database({ ...common, url: config.CATALOG_URL, connectionsMax: 1, waitersMax: 2 });
  const close = async (): Promise<void> => {
    const all = [...shard, catalog, ...replicas.map(({ database }) => database)];
    await Promise.all(all.map(async (database) => database.close()));
  };
  return { batches, others, checks, shard, catalog, replicas, close };
}
