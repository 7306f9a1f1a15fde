/** The databases of a node, and how many connections it has to each. */
import { serverUrls } from "../shared/database/url.ts";
import { Database, type DatabaseObserver } from "../shared/database/database.ts";
import type { NodeConfig } from "./config.ts";
import { BATCHES_PER_LANE_MAX } from "./decide/lanes.ts";

/** For a connection to a replica, and for a statement there: the primary still has time to answer afterwards. */
const REPLICA_TIMEOUT_MS = 500;

export interface NodeDatabases {
  /** The shard, for batches alone: no flood of reads can make bookings wait for a connection. */
  readonly batches: Database;
  /** The shard, for everything but batches. */
  readonly others: Database;
  /** The shard, for the checks of replicas alone: no flood of reads can make replicas look old. */
  readonly marks: Database;
  readonly catalog: Database;
  readonly replicas: readonly { readonly url: string; readonly database: Database }[];
  close(): Promise<void>;
}

export function openDatabases(config: NodeConfig, observer: DatabaseObserver): NodeDatabases {
  const applicationName = `onsale ${config.SHARD_ID}`;
  const timeouts = {
    connectTimeoutMs: config.CONNECT_TIMEOUT_MS,
    statementTimeoutMs: config.STATEMENT_TIMEOUT_MS,
    lockTimeoutMs: config.LOCK_TIMEOUT_MS,
  };
  const waitersMax = config.POOL_WAITERS_MAX;
  const shard = (connectionsMax: number): Database =>
    new Database({
      url: config.DATABASE_URL,
      applicationName,
      connectionsMax,
      waitersMax,
      observer,
      ...timeouts,
    });
  const replicaUrls = config.REPLICA_URL === undefined ? [] : serverUrls(config.REPLICA_URL);

  const batches = shard(config.LANES * BATCHES_PER_LANE_MAX);
  const others = shard(config.READ_CONNECTIONS);
  const marks = shard(Math.max(1, replicaUrls.length));
  const catalog = new Database({
    url: config.CATALOG_URL,
    applicationName,
    connectionsMax: 1,
    waitersMax: 2,
    ...timeouts,
  });
  const replicas = replicaUrls.map((url) => ({
    url,
    database: new Database({
      url,
      applicationName,
      connectionsMax: config.READ_CONNECTIONS,
      waitersMax,
      connectTimeoutMs: REPLICA_TIMEOUT_MS,
      statementTimeoutMs: REPLICA_TIMEOUT_MS,
      lockTimeoutMs: REPLICA_TIMEOUT_MS,
      readOnly: true,
      observer,
    }),
  }));
  return {
    batches,
    others,
    marks,
    catalog,
    replicas,
    async close() {
      const all = [batches, others, marks, catalog, ...replicas.map(({ database }) => database)];
      await Promise.all(all.map(async (database) => database.close()));
    },
  };
}
