/** The parts of a shard node, put together. */
import { DRAINING, startAdminServer } from "../shared/watch/admin-server.ts";
import { systemClock } from "../shared/process/clock.ts";
import { drain, listen } from "../shared/process/http-server.ts";
import type { Running } from "../shared/process/lifecycle.ts";
import { createLog } from "../shared/process/log.ts";
import { createRegistry } from "../shared/watch/metrics.ts";
import { serverName } from "../shared/database/url.ts";
import { Broker } from "../shared/queue/broker.ts";
import { SnapshotStore } from "../shared/redis/redis.ts";
import { startTracing } from "../shared/watch/start-tracing.ts";
import type { Snapshot } from "../shared/domain/events.ts";
import { Background } from "./background.ts";
import { Catalog } from "./catalog.ts";
import type { NodeConfig } from "./config.ts";
import { createDatabases } from "./databases.ts";
import { Decider } from "./decide/decider.ts";
import { Lanes } from "./decide/lanes.ts";
import { createNodeMetrics } from "./metrics.ts";
import { ChangePublisher } from "./queue/change-publisher.ts";
import { Intake } from "./queue/intake.ts";
import { EventPublisher } from "./publisher.ts";
import { Followers } from "./read/followers.ts";
import { LogFollower } from "./read/log-follower.ts";
import { Reader } from "./read/reader.ts";
import { Replica } from "./read/replica.ts";
import { createNodeServer } from "./rpc.ts";
import { BookingStore } from "./store/booking-store.ts";
import { HOST_TRIES_MAX, WebhookDeliveries } from "./webhooks/deliveries.ts";
import { WebhookSender } from "./webhooks/sender.ts";
import { Targets } from "./webhooks/targets.ts";

export interface RunningNode extends Running {
  readonly url: string;
  readonly adminUrl: string;
}

/** Starts a node. It serves as soon as its database takes writes, and goes on trying while it does not. */
export async function startNode(config: NodeConfig): Promise<RunningNode> {
  const log = createLog(`shard-node ${config.SHARD_ID}`, config.LOG_LEVEL);
  const registry = createRegistry();
  const metrics = createNodeMetrics(registry);
  const attributes = { "onsale.shard.id": config.SHARD_ID };
  const tracing = await startTracing(config, { name: "onsale-shard-node", attributes }, log, registry);

  const databases = createDatabases(config, metrics);
  const store = new BookingStore(databases.batches, Date.now, databases.others, config.QUEUE_MAX_AGE_SECONDS);
  const catalog = new Catalog(databases.catalog, config.SHARD_ID, databases.shard);
  const redis =
    config.REDIS_URL === undefined
      ? undefined
      : new SnapshotStore(config.REDIS_URL, log, metrics.redisFailed);
  const publisher = redis && new EventPublisher(redis, systemClock, metrics);
  const followers = new Followers(store, systemClock, metrics);
  const changed = (snapshots: readonly Snapshot[]): void => {
    publisher?.publish(snapshots);
    followers.changed();
  };

  const decider = new Decider(store, { committed: changed, lockWaited: metrics.lockWaited }, log);
  const limits = {
    lanes: config.LANES,
    batchMax: config.LANE_BATCH_MAX,
    queueMax: config.LANE_QUEUE_MAX,
    waitMaxMs: config.LANE_WAIT_MAX_MS,
    perUserMax: config.USER_COMMANDS_MAX,
  };
  const lanes = new Lanes(limits, async (...batch) => decider.decide(...batch), systemClock, metrics);

  const intake =
    config.AMQP_URL === undefined
      ? undefined
      : new Intake({
          shard: config.SHARD_ID,
          lanes,
          ownerOf: (slot) => catalog.ownerOf(slot),
          counted: metrics.requestsSettled,
          clock: systemClock,
          log,
        });

  // On a connection of its own: what goes wrong with the exchange must not end that of the requests.
  const exchange =
    config.AMQP_URL === undefined
      ? undefined
      : new Broker(config.AMQP_URL, `onsale ${config.SHARD_ID} changes`, log);
  const changePublisher =
    exchange &&
    new LogFollower(new ChangePublisher(config.SHARD_ID, exchange, metrics.changesPublished), {
      store,
      followers,
      skipped: () => metrics.changesSkipped("publisher"),
      log,
    });

  const replicas = databases.replicas.map(({ url, database }) => ({
    name: serverName(url),
    replica: new Replica(databases.checks, database, systemClock),
    store: new BookingStore(database, Date.now),
  }));
  const reader = new Reader({
    primary: store,
    replicas,
    lagMaxMs: config.REPLICA_LAG_MAX_MS,
    read: metrics.read,
  });

  const background = new Background({
    config,
    databases,
    catalog,
    replicas,
    store,
    intake,
    changed,
    metrics,
    log,
  });
  const databaseUp = (): boolean => background.databaseUp;
  const targets = new Targets(config.WEBHOOK_TARGETS);
  const webhooks = new WebhookDeliveries({
    shard: config.SHARD_ID,
    store,
    sender: new WebhookSender(targets, HOST_TRIES_MAX),
    counted: metrics.webhookDeliveries,
    databaseUp,
    skipped: () => metrics.changesSkipped("webhooks"),
    log,
  });
  metrics.watch({
    lanes,
    followers,
    databases: [...databases.shard, ...databases.replicas.map(({ database }) => database)],
    databaseUp,
    redisUp: () => redis?.up ?? false,
    intake,
    changePublisher,
    webhooks,
  });
  const internalTokens = [config.INTERNAL_TOKEN, config.INTERNAL_TOKEN_PREVIOUS ?? []].flat();
  const server = createNodeServer({
    shardId: config.SHARD_ID,
    internalTokens,
    store,
    reader,
    followers,
    lanes,
    intake,
    targets,
    catalog,
    changed,
    databaseUp,
    metrics,
    clock: systemClock,
    log,
    tracing,
  });
  // The map names the shard's timeline. A node must know it before it uses the shard's database: the first server that
  // answers may be a replaced primary.
  await catalog.refreshWithin(config.CONNECT_TIMEOUT_MS);
  const listening = await listen(server, { host: config.HOST, port: config.PORT });
  const url = config.ADVERTISE_URL ?? listening;
  catalog.announceAt(url);
  background.start();
  const { AMQP_URL: amqpUrl = "" } = config;
  changePublisher?.start();
  webhooks.start();
  intake?.start((consumers) => new Broker(amqpUrl, `onsale ${config.SHARD_ID}`, log, consumers));

  let draining = false;
  const admin = await startAdminServer({
    host: config.ADMIN_HOST ?? config.HOST,
    port: config.ADMIN_PORT,
    registry,
    unready: () => {
      if (draining) return DRAINING;
      if (!databaseUp()) return "the shard's database takes no writes";
      return catalog.announced ? undefined : "the shard map does not name this node yet";
    },
  });
  log.info({ url, adminUrl: admin.url }, "serving");

  return {
    url,
    adminUrl: admin.url,
    async close() {
      draining = true;
      // From now on maps name only the other nodes, also the maps that this node gives out while it still serves.
      await catalog.withdraw().catch(() => undefined);
      followers.close();
      await changePublisher?.stop();
      await webhooks.stop();
      await exchange?.close();
      await intake?.stop();
      await drain(server, config.DRAIN_GRACE_MS);
      await lanes.drained();
      await background.stop();
      await publisher?.close();
      redis?.close();
      await tracing?.close();
      await Promise.all([databases.close(), admin.close()]);
    },
  };
}
