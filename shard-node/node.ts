/** The parts of a shard node, put together. */
import { startAdminServer } from "../shared/watch/admin-server.ts";
import { systemClock } from "../shared/process/clock.ts";
import { drain, listen } from "../shared/process/http-server.ts";
import type { Running } from "../shared/process/lifecycle.ts";
import { createLog } from "../shared/process/log.ts";
import { Outage } from "../shared/process/outage.ts";
import { createRegistry } from "../shared/watch/metrics.ts";
import { serverName, serverUrls } from "../shared/database/url.ts";
import { Database, DatabaseError, type Statement } from "../shared/database/database.ts";
import { SnapshotStore } from "../shared/redis/redis.ts";
import { repeat } from "../shared/process/repeat.ts";
import { startTracing } from "../shared/watch/start-tracing.ts";
import type { Snapshot } from "../shared/domain/events.ts";
import { createNodeServer } from "./rpc.ts";
import { BookingStore } from "./store/booking-store.ts";
import { Catalog } from "./catalog.ts";
import type { NodeConfig } from "./config.ts";
import { Decider } from "./decide/decider.ts";
import { EventPublisher } from "./publisher.ts";
import { BATCHES_PER_LANE_MAX, Lanes } from "./decide/lanes.ts";
import { createNodeMetrics } from "./metrics.ts";
import { Reader } from "./read/reader.ts";
import { Replica } from "./read/replica.ts";

const CATALOG_REFRESH_MS = 1_000;
const SAMPLE_MS = 1_000;
/** How often the shard's other servers are asked whether one of them has become the primary. */
const SUCCESSOR_CHECK_MS = 1_000;
const REPLICA_CHECK_MS = 100;
/** For a connection to a replica, and for a statement there: then the primary still has time to answer. */
const REPLICA_TIMEOUT_MS = 500;

const SAMPLE: Statement = {
  name: "sample-activity",
  text: `
    select count(*) filter (where backend_type = 'client backend')::integer as backends,
           count(*) filter (where wait_event_type = 'Lock')::integer as "lockWaiters",
           (select coalesce(max(extract(epoch from replay_lag)), 0)::float8 from pg_stat_replication) as "replicaLagSeconds",
           extract(epoch from coalesce(greatest(
             max(clock_timestamp() - xact_start) filter (where backend_xmin is not null or backend_xid is not null),
             (select max(clock_timestamp() - prepared) from pg_prepared_xacts where database = current_database())
           ), '0'))::float8 as "oldestSnapshotSeconds"
    from pg_stat_activity where datname = current_database()`,
};

export interface RunningNode extends Running {
  readonly url: string;
  readonly adminUrl: string;
}

/** Starts a node. It serves as soon as its database answers, and goes on trying while it does not. */
export async function startNode(config: NodeConfig): Promise<RunningNode> {
  const log = createLog(`shard-node ${config.SHARD_ID}`, config.LOG_LEVEL);
  const registry = createRegistry();
  const metrics = createNodeMetrics(registry);
  const service = {
    name: "onsale-shard-node",
    attributes: { "onsale.shard.id": config.SHARD_ID },
  } as const;
  const tracing = await startTracing(config, service, log, registry);
  const timeouts = {
    connectTimeoutMs: config.CONNECT_TIMEOUT_MS,
    statementTimeoutMs: config.STATEMENT_TIMEOUT_MS,
    lockTimeoutMs: config.LOCK_TIMEOUT_MS,
  };
  const shardDatabase = (connectionsMax: number): Database =>
    new Database({
      url: config.DATABASE_URL,
      applicationName: `onsale ${config.SHARD_ID}`,
      connectionsMax,
      waitersMax: config.POOL_WAITERS_MAX,
      observer: metrics,
      ...timeouts,
    });
  const batches = shardDatabase(config.LANES * BATCHES_PER_LANE_MAX);
  const others = shardDatabase(config.READ_CONNECTIONS);
  const catalogDatabase = new Database({
    url: config.CATALOG_URL,
    applicationName: `onsale ${config.SHARD_ID}`,
    connectionsMax: 1,
    waitersMax: 2,
    ...timeouts,
  });
  const store = new BookingStore(batches, () => systemClock.now(), others);
  const replicaUrls = config.REPLICA_URL === undefined ? [] : serverUrls(config.REPLICA_URL);
  // Of its own, so that no flood of reads makes replicas look old.
  const marks = shardDatabase(Math.max(1, replicaUrls.length));
  const shardDatabases = [batches, others, marks];
  const catalog = new Catalog(catalogDatabase, config.SHARD_ID, shardDatabases);
  const replicas = replicaUrls.map((url) => {
    const database = new Database({
      url,
      applicationName: `onsale ${config.SHARD_ID}`,
      connectionsMax: config.READ_CONNECTIONS,
      waitersMax: config.POOL_WAITERS_MAX,
      connectTimeoutMs: REPLICA_TIMEOUT_MS,
      statementTimeoutMs: REPLICA_TIMEOUT_MS,
      lockTimeoutMs: REPLICA_TIMEOUT_MS,
      readOnly: true,
      observer: metrics,
    });
    return {
      url,
      replica: new Replica(marks, database, systemClock),
      store: new BookingStore(database, () => systemClock.now()),
    };
  });
  const reader = new Reader({
    primary: store,
    replicas,
    lagMaxMs: config.REPLICA_LAG_MAX_MS,
    read: (source) => metrics.read(source),
  });
  const redis = config.REDIS_URL === undefined ? undefined : new SnapshotStore(config.REDIS_URL, log);
  const publisher =
    redis &&
    new EventPublisher(redis, {
      pendingMax: 50_000,
      batchMax: 200,
      pauseMs: 10,
      retryMs: 200,
      published: (seconds) => metrics.published(seconds),
    });
  const changed = (snapshots: readonly Snapshot[]): void => publisher?.publish(snapshots);
  const decider = new Decider(
    store,
    { committed: changed, lockWaited: (seconds) => metrics.lockWaited(seconds) },
    log,
  );
  const limits = { lanes: config.LANES, batchMax: config.LANE_BATCH_MAX, queueMax: config.LANE_QUEUE_MAX };
  const lanes = new Lanes(
    limits,
    async (commands, locked, span) => decider.decide(commands, locked, span),
    systemClock,
    metrics,
  );

  let draining = false;
  let databaseUp = false;
  metrics.watch({
    lanes,
    databases: [batches, others, marks, ...replicas.map(({ replica }) => replica.database)],
    databaseUp: () => databaseUp,
    redisUp: () => redis?.up ?? false,
  });
  const server = createNodeServer({
    internalTokens: [config.INTERNAL_TOKEN, config.INTERNAL_TOKEN_PREVIOUS].filter((t) => t !== undefined),
    store,
    reader,
    lanes,
    catalog,
    changed,
    databaseUp: () => databaseUp,
    metrics: metrics.http,
    clock: systemClock,
    shed: () => metrics.shed("pool_busy"),
    log,
    tracing,
  });
  // Before the first use of the shard's database: the server that answers may be one that was replaced.
  await catalog.refreshWithin(config.CONNECT_TIMEOUT_MS);
  const listening = await listen(server, { host: config.HOST, port: config.PORT });
  const url = config.ADVERTISE_URL ?? listening;
  catalog.announceAt(url);

  const catalogState = new Outage(log, "the catalog");
  const databaseState = new Outage(log, "the shard's database");
  const announcing = repeat(
    async () => {
      await catalog.refresh();
      catalogState.worked();
    },
    CATALOG_REFRESH_MS,
    (error) => catalogState.failed(error),
  );
  const lookingForSuccessor = repeat(
    async () => {
      await others.lookForSuccessor();
      for (const database of shardDatabases) database.refuseBefore(others.timeline);
    },
    SUCCESSOR_CHECK_MS,
    (error) => databaseState.failed(error),
  );
  const sampling = repeat(
    async () => {
      const [sample] = await others.query<{
        backends: number;
        lockWaiters: number;
        replicaLagSeconds: number;
        oldestSnapshotSeconds: number;
      }>(SAMPLE);
      if (sample !== undefined) {
        const lags = replicas.map(({ replica }) => replica.lagSeconds);
        metrics.activity({ ...sample, replicaLagSeconds: Math.max(sample.replicaLagSeconds, ...lags) });
      }
      databaseUp = true;
      databaseState.worked();
    },
    SAMPLE_MS,
    (error) => {
      // Too busy to be sampled is not away.
      if (error instanceof DatabaseError && error.kind === "busy") return;
      databaseUp = false;
      databaseState.failed(error);
    },
  );
  const following = replicas.map(({ url, replica }) => {
    const state = new Outage(log, `the replica ${serverName(url)}`);
    return repeat(
      async () => {
        await replica.check();
        state.worked();
      },
      REPLICA_CHECK_MS,
      (error) => state.failed(error),
    );
  });
  const sweep = new Outage(log, "the sweep of due holds");
  const sweeping = repeat(
    async () => {
      let swept: readonly Snapshot[] = [];
      do {
        if (!databaseUp) return;
        swept = await store.expireDueHolds(config.HOLD_SWEEP_EVENTS_MAX);
        changed(swept);
        // Many holds that end together are not worth a pause between them.
      } while (swept.length === config.HOLD_SWEEP_EVENTS_MAX);
      sweep.worked();
    },
    config.HOLD_SWEEP_INTERVAL_MS,
    (error) => sweep.failed(error),
  );

  const admin = await startAdminServer({
    host: config.ADMIN_HOST ?? config.HOST,
    port: config.ADMIN_PORT,
    registry,
    unready: () => {
      if (draining) return "draining";
      if (!databaseUp) return "the shard's database does not answer";
      return catalog.map === undefined ? "no shard map was read yet" : undefined;
    },
  });
  log.info({ url, adminUrl: admin.url }, "serving");

  return {
    url,
    adminUrl: admin.url,
    async close() {
      draining = true;
      // From now on routers learn of the other nodes only, also from this one while it serves on.
      await catalog.withdraw().catch(() => undefined);
      await drain(server, config.DRAIN_GRACE_MS);
      await announcing.stop();
      await lookingForSuccessor.stop();
      await lanes.drained();
      await Promise.all([
        sweeping.stop(),
        sampling.stop(),
        ...following.map(async (each) => each.stop()),
        publisher?.close(),
      ]);
      redis?.close();
      await tracing?.close();
      const databases = [
        batches,
        others,
        marks,
        catalogDatabase,
        ...replicas.map((each) => each.replica.database),
      ];
      await Promise.all([...databases.map(async (database) => database.close()), admin.close()]);
    },
  };
}
