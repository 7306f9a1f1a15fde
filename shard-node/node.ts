/** Puts the parts of a shard node together. */
import type { Snapshot } from "../shared/domain/events.ts";
import { systemClock } from "../shared/process/clock.ts";
import { drain, listen } from "../shared/process/http-server.ts";
import type { Running } from "../shared/process/lifecycle.ts";
import { createLog } from "../shared/process/log.ts";
import { SnapshotStore } from "../shared/redis/redis.ts";
import { startAdminServer } from "../shared/watch/admin-server.ts";
import { createRegistry } from "../shared/watch/metrics.ts";
import { startTracing } from "../shared/watch/start-tracing.ts";
import { type Background, startBackground } from "./background.ts";
import { Catalog } from "./catalog.ts";
import type { NodeConfig } from "./config.ts";
import { openDatabases } from "./databases.ts";
import { Decider } from "./decide/decider.ts";
import { Lanes } from "./decide/lanes.ts";
import { createNodeMetrics } from "./metrics.ts";
import { EventPublisher } from "./publisher.ts";
import { Reader } from "./read/reader.ts";
import { Replica } from "./read/replica.ts";
import { createNodeServer } from "./rpc.ts";
import { BookingStore } from "./store/booking-store.ts";

export interface RunningNode extends Running {
  readonly url: string;
  readonly adminUrl: string;
}

/** Starts a node. It serves as soon as its database answers, and goes on trying until then. */
export async function startNode(config: NodeConfig): Promise<RunningNode> {
  const log = createLog(`shard-node ${config.SHARD_ID}`, config.LOG_LEVEL);
  const registry = createRegistry();
  const metrics = createNodeMetrics(registry);
  const attributes = { "onsale.shard.id": config.SHARD_ID };
  const tracing = await startTracing(config, { name: "onsale-shard-node", attributes }, log, registry);
  const clock = systemClock;

  const databases = openDatabases(config, metrics);
  const { batches, others, marks } = databases;
  const catalog = new Catalog(databases.catalog, config.SHARD_ID, [batches, others, marks]);
  const store = new BookingStore(batches, () => clock.now(), others);

  const redis = config.REDIS_URL === undefined ? undefined : new SnapshotStore(config.REDIS_URL, log);
  const publisher = redis && new EventPublisher(redis, (seconds) => metrics.published(seconds));
  const changed = (snapshots: readonly Snapshot[]): void => publisher?.publish(snapshots);

  const hooks = { committed: changed, lockWaited: (seconds: number) => metrics.lockWaited(seconds) };
  const decider = new Decider(store, hooks, log);
  const lanes = new Lanes(
    { lanes: config.LANES, batchMax: config.LANE_BATCH_MAX, queueMax: config.LANE_QUEUE_MAX },
    async (commands, locked, span) => decider.decide(commands, locked, span),
    clock,
    metrics,
  );

  const replicas = databases.replicas.map(({ url, database }) => ({
    url,
    replica: new Replica(marks, database, clock),
    store: new BookingStore(database, () => clock.now()),
  }));
  const reader = new Reader({
    primary: store,
    replicas,
    lagMaxMs: config.REPLICA_LAG_MAX_MS,
    read: (source) => metrics.read(source),
  });

  let background: Background | undefined;
  let draining = false;
  const databaseUp = (): boolean => background?.databaseUp === true;
  const server = createNodeServer({
    internalTokens: [config.INTERNAL_TOKEN, config.INTERNAL_TOKEN_PREVIOUS].filter((t) => t !== undefined),
    store,
    reader,
    lanes,
    catalog,
    changed,
    databaseUp,
    metrics: metrics.http,
    shed: () => metrics.shed("pool_busy"),
    clock,
    log,
    tracing,
  });
  metrics.watch({
    lanes,
    databases: [batches, others, marks, ...databases.replicas.map(({ database }) => database)],
    databaseUp,
    redisUp: () => redis?.up ?? false,
  });

  // Before the first use of the shard's database: the server that answers may be one that was replaced.
  await catalog.refreshWithin(config.CONNECT_TIMEOUT_MS);
  const listening = await listen(server, { host: config.HOST, port: config.PORT });
  const url = config.ADVERTISE_URL ?? listening;
  catalog.announceAt(url);
  background = startBackground({
    databases,
    catalog,
    store,
    replicas,
    metrics,
    changed,
    sweep: { everyMs: config.HOLD_SWEEP_INTERVAL_MS, eventsMax: config.HOLD_SWEEP_EVENTS_MAX },
    log,
  });
  const admin = await startAdminServer({
    host: config.ADMIN_HOST ?? config.HOST,
    port: config.ADMIN_PORT,
    registry,
    unready: () => {
      if (draining) return "draining";
      if (!databaseUp()) return "the shard's database does not answer";
      return catalog.map === undefined ? "no shard map was read yet" : undefined;
    },
  });
  log.info({ url, adminUrl: admin.url }, "serving");

  return {
    url,
    adminUrl: admin.url,
    async close() {
      draining = true;
      // From now on routers learn only of the other nodes, even from this one while it still serves.
      await catalog.withdraw().catch(() => undefined);
      await drain(server, config.DRAIN_GRACE_MS);
      await background.stop();
      await lanes.drained();
      await publisher?.close();
      redis?.close();
      await tracing?.close();
      await Promise.all([databases.close(), admin.close()]);
    },
  };
}
