/** Puts the parts of a router together. */
import { DRAINING, startAdminServer } from "../shared/watch/admin-server.ts";
import { systemClock } from "../shared/process/clock.ts";
import { drain, listen } from "../shared/process/http-server.ts";
import type { Running } from "../shared/process/lifecycle.ts";
import { createLog } from "../shared/process/log.ts";
import { createRegistry } from "../shared/watch/metrics.ts";
import { SnapshotFeed, SnapshotStore } from "../shared/redis/redis.ts";
import { startTracing } from "../shared/watch/start-tracing.ts";
import { TokenVerifier } from "./callers/tokens.ts";
import { Cluster } from "./shards/cluster.ts";
import type { RouterConfig } from "./config.ts";
import { EventCache } from "./cache/event-cache.ts";
import { PageCache } from "./cache/page-cache.ts";
import { BookingQueue } from "./queue/booking-queue.ts";
import { ReadSide } from "./read-side/read-side.ts";
import { Receipts } from "./queue/receipts.ts";
import { clientAddressBehind } from "./callers/client-address.ts";
import { createRouterServer } from "./http/server.ts";
import { createWriteLimits } from "./callers/write-limits.ts";
import { createRouterMetrics } from "./metrics.ts";

export interface RunningRouter extends Running {
  readonly url: string;
  readonly adminUrl: string;
}

/** Starts a router. It is ready as soon as it has the shard map, and while a node answers. */
export async function startRouter(config: RouterConfig): Promise<RunningRouter> {
  const log = createLog("router", config.LOG_LEVEL);
  const registry = createRegistry();
  const metrics = createRouterMetrics(registry);
  const tracing = await startTracing(config, { name: "onsale-router" }, log, registry);
  const clock = systemClock;
  const redis =
    config.REDIS_URL === undefined
      ? undefined
      : new SnapshotStore(config.REDIS_URL, log, metrics.redisFailed);
  const cache: EventCache = new EventCache({
    eventsMax: config.CACHE_EVENTS_MAX,
    clock,
    redis,
    loadFromShard: async (id, notBefore, span) => cluster.readEvent(id, notBefore, span),
    counted: (tier, result) => metrics.cacheRead(tier, result),
  });
  const feed =
    config.REDIS_URL === undefined
      ? undefined
      : new SnapshotFeed(config.REDIS_URL, log, (s) => cache.hear(s));
  const cluster: Cluster = new Cluster({
    seedUrls: config.NODE_URLS,
    internalToken: config.INTERNAL_TOKEN,
    limits: {
      batchMax: config.RPC_BATCH_MAX,
      inFlightMax: config.RPC_IN_FLIGHT_MAX,
      queueMax: config.SHARD_QUEUE_MAX,
      waitMaxMs: config.SHARD_WAIT_MAX_MS,
      perUserMax: config.USER_COMMANDS_MAX,
    },
    readDeadlineMs: config.READ_DEADLINE_MS,
    commandDeadlineMs: config.COMMAND_DEADLINE_MS,
    clock,
    observer: metrics,
    learned: (snapshots, askedAt) => cache.learn(snapshots, askedAt),
    log,
  });
  const pages = new PageCache({
    clock,
    forgottenUntil: () => cache.forgottenUntil,
    load: async (before, limit, notBefore, span) => cluster.listEvents(before, limit, notBefore, span),
    counted: (result) => metrics.listRead(result),
  });
  const queue = config.AMQP_URL === undefined ? undefined : BookingQueue.connect(config.AMQP_URL, clock, log);
  const readSide =
    config.READ_SIDE_URL === undefined
      ? undefined
      : new ReadSide(config.READ_SIDE_URL, config.INTERNAL_TOKEN, config.READ_DEADLINE_MS, log);
  const receiptSecrets = [config.RECEIPT_SECRET, config.AUTH_JWT_SECRET, config.AUTH_JWT_SECRET_PREVIOUS];
  const stopping = new AbortController();
  metrics.watch({
    shards: () => cluster.shards,
    redisUp: () => redis?.up ?? false,
    queueUp: () => queue?.up ?? false,
    readSideUp: () => readSide?.up ?? false,
  });

  const writeLimits = createWriteLimits(
    {
      perUser: config.RATE_LIMIT_PER_USER,
      perOrganizer: config.RATE_LIMIT_PER_ORGANIZER,
      perAddress: config.RATE_LIMIT_PER_ADDRESS,
      redisUrl: config.REDIS_URL,
    },
    clock,
    log,
    metrics.redisFailed,
  );
  const server = createRouterServer({
    cluster,
    cache,
    pages,
    verifier: new TokenVerifier(
      {
        keys:
          config.AUTH_JWKS_URL === undefined
            ? { secret: config.AUTH_JWT_SECRET ?? "", previousSecret: config.AUTH_JWT_SECRET_PREVIOUS }
            : { jwksUrl: config.AUTH_JWKS_URL },
        issuer: config.AUTH_JWT_ISSUER,
        audience: config.AUTH_JWT_AUDIENCE,
      },
      clock,
    ),
    metrics,
    queue,
    readSide,
    receipts: new Receipts(receiptSecrets.flatMap((secret) => secret ?? [])),
    draining: stopping.signal,
    clock,
    log,
    tracing,
    commandDeadlineMs: config.COMMAND_DEADLINE_MS,
    ifMatchRequired: config.IF_MATCH_REQUIRED === "true",
    corsOrigins: config.CORS_ORIGINS,
    documentation: config.DOCUMENTATION === "on",
    connectionsMax: config.CONNECTIONS_MAX,
    writeLimits,
    clientAddress: clientAddressBehind(config.TRUSTED_PROXIES),
  });
  let draining = false;
  const url = await listen(server, { host: config.HOST, port: config.PORT });
  const admin = await startAdminServer({
    host: config.ADMIN_HOST ?? config.HOST,
    port: config.ADMIN_PORT,
    registry,
    unready: () => (draining ? DRAINING : cluster.unready),
  });
  log.info({ url, adminUrl: admin.url }, "serving");

  return {
    url,
    adminUrl: admin.url,
    async close() {
      draining = true;
      stopping.abort();
      await drain(server, config.DRAIN_GRACE_MS);
      await Promise.all([cluster.close(), queue?.close(), readSide?.close()]);
      feed?.close();
      redis?.close();
      writeLimits.close();
      await tracing?.close();
      await admin.close();
    },
  };
}
