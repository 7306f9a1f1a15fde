/**
 * Routers and nodes out of the product's own parts, put together as router/router.ts and shard-node/node.ts do it. Only what lies
 * outside of a process is simulated: sockets, databases, the catalog, RabbitMQ and Redis. All that knows the shape of product code is here.
 */
import type { Server } from "node:http";
import { EventCache } from "../../router/cache/event-cache.ts";
import { PageCache } from "../../router/cache/page-cache.ts";
import { TokenVerifier } from "../../router/callers/tokens.ts";
import { SharedSecret } from "../../router/callers/hs256.ts";
import { createRouterServer } from "../../router/http/server.ts";
import { createRouterMetrics } from "../../router/metrics.ts";
import { Follower } from "../../read-side/follow/follower.ts";
import { BookingQueue } from "../../router/queue/booking-queue.ts";
import { Receipts } from "../../router/queue/receipts.ts";
import { Cluster } from "../../router/shards/cluster.ts";
import { Background } from "../../shard-node/background.ts";
import { Catalog } from "../../shard-node/catalog.ts";
import { Targets } from "../../shard-node/webhooks/targets.ts";
import type { NodeDatabases } from "../../shard-node/databases.ts";
import { Decider } from "../../shard-node/decide/decider.ts";
import { Lanes } from "../../shard-node/decide/lanes.ts";
import { createNodeMetrics } from "../../shard-node/metrics.ts";
import { Intake } from "../../shard-node/queue/intake.ts";
import { EventPublisher } from "../../shard-node/publisher.ts";
import { Followers } from "../../shard-node/read/followers.ts";
import { Reader } from "../../shard-node/read/reader.ts";
import { createNodeServer } from "../../shard-node/rpc.ts";
import type { Database } from "../../shared/database/database.ts";
import type { EventId } from "../../shared/domain/ids.ts";
import type { Snapshot } from "../../shared/domain/events.ts";
import { systemClock } from "../../shared/process/clock.ts";
import type { Log } from "../../shared/process/log.ts";
import { Nodes } from "../../shared/wire/nodes.ts";
import { createRegistry } from "../../shared/watch/metrics.ts";
import type { SimulatedBroker } from "./broker.ts";
import { SimulatedStore, type SimulatedShard } from "./store.ts";
import { type SimulatedCatalog, type SimulatedRedis, SimulatedSnapshots } from "./surroundings.ts";
import type { SimulatedViews } from "./views.ts";
import { inProcess, type Process, world } from "./world.ts";

const SECRET = "a secret of the simulation, and of nothing else";
export const INTERNAL_TOKEN = "routers and followers only";

export const COMMAND_DEADLINE_MS = 5_000;
export const READ_DEADLINE_MS = 2_000;
export const USER_COMMANDS_MAX = { router: 5, node: 10 };
const WAIT_MAX_MS = 1_000;
const CHECK_TIMEOUT_MS = 1_000;

/** How a router and a node are set. Small bounds are reached in short runs. */
export interface Settings {
  readonly lanes: number;
  readonly laneBatchMax: number;
  readonly rpcBatchMax: number;
  readonly cacheEventsMax: number;
}

export interface Router {
  readonly process: Process;
  readonly server: Server;
}

export interface Node {
  readonly process: Process;
  readonly server: Server;
  readonly shard: SimulatedShard;
  readonly url: string;
}

export interface RouterObserver {
  /** A router asks a shard for an event; the function is called at the end. */
  loading(router: Process, id: EventId): () => void;
}

// Nobody reads these metrics, so all processes share them.
const routerMetrics = createRouterMetrics(createRegistry());
const nodeMetrics = createNodeMetrics(createRegistry());

/** What processes share beside the shards. */
export interface Surroundings {
  readonly redis: SimulatedRedis | undefined;
  readonly broker: SimulatedBroker;
}

export function startRouter(
  process: Process,
  nodeUrls: readonly string[],
  { redis, broker }: Surroundings,
  settings: Settings,
  observer: RouterObserver,
): Router {
  return inProcess(process, () => {
    const log = logOf();
    const snapshots = redis && new SimulatedSnapshots(redis);
    const cache: EventCache = new EventCache({
      eventsMax: settings.cacheEventsMax,
      clock: systemClock,
      redis: snapshots,
      loadFromShard: async (id, notBefore) => {
        const ended = observer.loading(process, id);
        return cluster.readEvent(id, notBefore).finally(ended);
      },
      counted: () => undefined,
    });
    redis?.subscribe(process, (heard) => cache.hear(heard));
    const cluster: Cluster = new Cluster({
      seedUrls: nodeUrls,
      internalToken: INTERNAL_TOKEN,
      limits: {
        batchMax: settings.rpcBatchMax,
        inFlightMax: 4,
        queueMax: 10_000,
        waitMaxMs: WAIT_MAX_MS,
        perUserMax: USER_COMMANDS_MAX.router,
      },
      readDeadlineMs: READ_DEADLINE_MS,
      commandDeadlineMs: COMMAND_DEADLINE_MS,
      clock: systemClock,
      observer: routerMetrics,
      learned: (learned, askedAt) => cache.learn(learned, askedAt),
      log,
    });
    const pages = new PageCache({
      clock: systemClock,
      forgottenUntil: () => cache.forgottenUntil,
      load: async (before, limit, notBefore) => cluster.listEvents(before, limit, notBefore),
      counted: () => undefined,
    });
    const queue = new BookingQueue(broker.connect(), systemClock);
    return { process, server: frontFor(process.name, { cluster, cache, pages, queue }) };
  });
}

interface Back {
  readonly cluster: Cluster;
  readonly cache: EventCache;
  readonly pages: PageCache;
  readonly queue: BookingQueue;
}

/** To build an app takes longer than a short run. So each name keeps its server, in front of its router of the moment. */
const fronts = new Map<string, { readonly server: Server; back: Back }>();

function frontFor(name: string, back: Back): Server {
  const known = fronts.get(name);
  if (known !== undefined) {
    known.back = back;
    return known.server;
  }
  const server = createRouterServer({
    cluster: delegate(() => front.back.cluster),
    cache: delegate(() => front.back.cache),
    pages: delegate(() => front.back.pages),
    ifMatchRequired: false,
    documentation: true,
    corsOrigins: new Set(),
    verifier: new TokenVerifier({ keys: { secret: SECRET } }, systemClock),
    metrics: routerMetrics,
    queue: delegate(() => front.back.queue),
    readSide: undefined,
    receipts: new Receipts([SECRET]),
    draining: new AbortController().signal,
    clock: systemClock,
    log: logOf(),
    tracing: undefined,
    commandDeadlineMs: COMMAND_DEADLINE_MS,
    connectionsMax: 1_000,
    // They have nothing to do with what is simulated.
    writeLimits: { admit: () => undefined, close: () => undefined },
    clientAddress: () => undefined,
  });
  const front = { server, back };
  fronts.set(name, front);
  return server;
}

function delegate<T extends object>(to: () => T): T {
  return new Proxy({} as T, {
    get(_, name) {
      const target = to();
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

export function startNode(
  process: Process,
  shard: SimulatedShard,
  catalogs: SimulatedCatalog,
  { redis, broker }: Surroundings,
  url: string,
  settings: Settings,
  store = new SimulatedStore(shard),
): Node {
  return inProcess(process, () => {
    const log = logOf();
    const database = databaseOf(shard);
    const catalog = new Catalog(catalogs as unknown as Database, shard.id, [database]);
    const publisher = redis && new EventPublisher(new SimulatedSnapshots(redis), systemClock, nodeMetrics);
    const followers = new Followers(store, systemClock, nodeMetrics);
    const changed = (snapshots: readonly Snapshot[]): void => {
      publisher?.publish(snapshots);
      followers.changed();
    };
    const decider = new Decider(store, { committed: changed, lockWaited: () => undefined }, log);
    const limits = {
      lanes: settings.lanes,
      batchMax: settings.laneBatchMax,
      queueMax: 5_000,
      waitMaxMs: WAIT_MAX_MS,
      perUserMax: USER_COMMANDS_MAX.node,
    };
    const lanes = new Lanes(limits, async (...batch) => decider.decide(...batch), systemClock, nodeMetrics);
    const intake = new Intake({
      shard: shard.id,
      lanes,
      ownerOf: (slot) => catalog.ownerOf(slot),
      counted: () => undefined,
      clock: systemClock,
      log,
    });
    const reader = new Reader({ primary: store, replicas: [], lagMaxMs: 0, read: () => undefined });
    const background = new Background({
      config: { HOLD_SWEEP_INTERVAL_MS: 1_000, HOLD_SWEEP_EVENTS_MAX: 200, LOG_RETENTION_HOURS: 1 },
      databases: { others: database, checks: database, shard: [database] } as unknown as NodeDatabases,
      catalog,
      replicas: [],
      store,
      intake,
      changed,
      metrics: nodeMetrics,
      log,
    });
    const server = createNodeServer({
      shardId: shard.id,
      internalTokens: [INTERNAL_TOKEN],
      store,
      reader,
      followers,
      lanes,
      intake,
      targets: new Targets("none"),
      catalog,
      changed,
      databaseUp: () => background.databaseUp,
      metrics: nodeMetrics,
      clock: systemClock,
      log,
      tracing: undefined,
    });
    catalog.announceAt(url);
    background.start();
    intake.start((consumers) => broker.connect(consumers));
    return { process, server, shard, url };
  });
}

/** What the read side does to be as the shards are. How it answers is no part of the run. */
export function startReadSide(
  process: Process,
  views: SimulatedViews,
  shards: readonly SimulatedShard[],
  nodeUrls: readonly string[],
): void {
  inProcess(process, () => {
    const log = logOf();
    const nodes = new Nodes({ seedUrls: nodeUrls, internalToken: INTERNAL_TOKEN, connections: 4, log });
    for (const { id: shard } of shards) {
      const parts = {
        shard,
        nodes: () => nodes.of(shard),
        name: process.name,
        reached: () => undefined,
        log,
      };
      void new Follower({ ...parts, database: views, writer: views }).run(new AbortController().signal);
    }
  });
}

/** What a node's checks of its database answer. */
const CHECKED = {
  backends: 1,
  lockWaiters: 0,
  replicaLagSeconds: 0,
  oldestSnapshotSeconds: 0,
  readOnly: false,
};

/** As much of a Database as a node's background asks of it. */
function databaseOf(shard: SimulatedShard): Database {
  const asked = {
    timeline: 1,
    refuseBefore: () => undefined,
    lookForSuccessor: async () => undefined,
    query: async () => shard.statement([], () => [CHECKED], { timeoutMs: CHECK_TIMEOUT_MS }),
  };
  return asked as unknown as Database;
}

/** What a process logs is part of the run. */
function logOf(): Log {
  const line =
    (level: string) =>
    (values: { err?: unknown; reason?: string } | string, text = ""): void => {
      const { err, reason = "" } = typeof values === "string" ? { reason: values } : values;
      world().note(`${level}: ${text} ${reason} ${err instanceof Error ? err.message : ""}`.trimEnd());
    };
  return { info: line("info"), warn: line("warn"), error: line("error") } as unknown as Log;
}

const secret = new SharedSecret(SECRET);
const tokens = new Map<string, string>();

export function tokenFor(sub: string, role: "buyer" | "organizer"): string {
  const known = tokens.get(sub);
  if (known !== undefined) return known;
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");
  const text = `${part({ alg: "HS256", typ: "JWT" })}.${part({ sub, role, exp: 2_000_000_000 })}`;
  const token = `${text}.${secret.sign(text)}`;
  tokens.set(sub, token);
  return token;
}
