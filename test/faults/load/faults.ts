/** The faults that a cluster must live through: how each begins and ends, whom it may touch, and how soon it must be over. */
import { setTimeout as sleep } from "node:timers/promises";
import { moveEmptySlot } from "../../../migrations/shards.ts";
import type { ShardId } from "../../../shared/domain/ids.ts";
import { Connection } from "../../../shared/database/connection.ts";
import { SLOT_COUNT, type Slot } from "../../../shared/domain/slots.ts";
import { type Extra, type LoadedCluster, type Shard, SHARDS } from "./cluster.ts";
import { type Weather, WEATHERS } from "./link.ts";
import type { Part } from "./part.ts";

export interface Fault {
  readonly name: string;
  /** The process or link that it harms. Two faults of one victim would undo each other. */
  readonly victim: string;
  readonly seconds: number;
  /** What it may make slow. All other requests keep their pace. */
  readonly touches: {
    readonly shards: readonly Shard[];
    readonly routers: readonly number[];
    /** Bookings whose clients prefer not to wait. */
    readonly async?: boolean;
  };
  /** May what it touches fail? */
  readonly mayFail: boolean;
  /** After its end nothing fails any more when this has passed. */
  readonly recoverMs: number;
  /** How old a read may be meanwhile (C3). */
  readonly staleMs: number;
  /** It needs a cluster with this. */
  readonly needs?: Extra;
  /** Why it cannot be tried with this cluster; undefined when it can. */
  obstacle?(cluster: LoadedCluster): string | undefined;
  /** Does it, and gives what ends it. */
  begin(cluster: LoadedCluster): Promise<() => Promise<void> | void>;
}

const PROCESS_RECOVERS_MS = 5_000;
const RECOVERS_MS = 10_000;
const STALE_MS = 1_000;
/** A node did not publish what it committed: an entry of Redis lives for 5 s (C4), and memory for 0.8 s after it. */
const STALE_UNPUBLISHED_MS = 6_000;
const NOBODY = { shards: [], routers: [] };
const DEFAULTS = { seconds: 8, mayFail: true, recoverMs: RECOVERS_MS, staleMs: STALE_MS, touches: NOBODY };

const SHARD_1 = { shards: [1 as const], routers: [] };
const never = (): never => {
  throw new Error("the cluster has no such part");
};

function killed(
  name: string,
  part: (cluster: LoadedCluster) => Part | undefined,
  more: Partial<Fault>,
): Fault {
  return {
    ...DEFAULTS,
    ...more,
    name: `${name}: SIGKILL`,
    victim: name,
    async begin(cluster) {
      const victim = part(cluster) ?? never();
      await victim.kill();
      return async () => victim.start();
    },
  };
}

function frozen(
  name: string,
  part: (cluster: LoadedCluster) => Part | undefined,
  more: Partial<Fault>,
): Fault {
  return {
    ...DEFAULTS,
    ...more,
    name: `${name}: SIGSTOP`,
    victim: name,
    seconds: 10,
    async begin(cluster) {
      const victim = part(cluster) ?? never();
      victim.signal("SIGSTOP");
      return () => victim.signal("SIGCONT");
    },
  };
}

/** Both ways to lose a process. */
const lost = (...args: Parameters<typeof killed>): Fault[] => [killed(...args), frozen(...args)];

function weather(name: string, weather: Weather, more: Partial<Fault>): Fault {
  return {
    ...DEFAULTS,
    ...more,
    name: `${name}: ${weather}`,
    victim: name,
    // Slow and lossy networks cost time, and nothing else.
    mayFail: weather !== "slow" && weather !== "lossy" && (more.mayFail ?? true),
    async begin({ links }) {
      const link = links.get(name) ?? never();
      link.weather = weather;
      return () => void (link.weather = "clear");
    },
  };
}

/** Everything that a network does to a link. */
const stormy = (name: string, more: Partial<Fault>): Fault[] =>
  (Object.keys(WEATHERS) as Weather[])
    .filter((each) => each !== "clear")
    .map((each) => weather(name, each, more));

function withoutFiles(
  name: string,
  part: (cluster: LoadedCluster) => Part | undefined,
  more: Partial<Fault>,
): Fault {
  return {
    ...DEFAULTS,
    ...more,
    name: `${name}: out of file descriptors`,
    victim: name,
    async begin(cluster) {
      return (part(cluster) ?? never()).denyFiles();
    },
  };
}

/** Does it again and again until the fault ends. */
function repeated(everyMs: number, task: () => Promise<void>): () => Promise<void> {
  const stop = new AbortController();
  const work = (async () => {
    while (!stop.signal.aborted) {
      await task();
      await sleep(everyMs, undefined, { signal: stop.signal }).catch(() => undefined);
    }
  })();
  return async () => {
    stop.abort();
    await work;
  };
}

const terminated: Fault = {
  ...DEFAULTS,
  name: "PostgreSQL 1: its backends are terminated in the middle of their work",
  victim: "PostgreSQL 1",
  touches: SHARD_1,
  async begin({ databaseUrls }) {
    const url = databaseUrls[1] ?? never();
    const admin = new Connection({ url, session: { application_name: "faults" }, statementMs: 10_000 });
    const end = repeated(50, async () => {
      await admin.run(
        `select pg_terminate_backend(pid) from pg_stat_activity
         where datname = 'shard' and state = 'active' and pid <> pg_backend_pid()`,
      );
    });
    return async () => {
      await end();
      admin.close();
    };
  },
};

const fullDisk: Fault = {
  ...DEFAULTS,
  name: "PostgreSQL 1: its disk is full",
  victim: "PostgreSQL 1",
  touches: SHARD_1,
  obstacle: ({ disk }) => (disk === undefined ? "no file system may be mounted here" : undefined),
  async begin({ disk = never(), databases }) {
    const makeRoom = disk.fill();
    const database = databases[1] ?? never();
    database.mayEnd(); // it panics when it cannot write its log
    return async () => {
      makeRoom();
      if (database.isRunning) database.isWatched();
      else await database.start();
    };
  },
};

const promotion: Fault = {
  ...DEFAULTS,
  name: "PostgreSQL 1: lost, its replica is promoted, and it comes back",
  victim: "PostgreSQL 1",
  touches: SHARD_1,
  needs: "replica",
  async begin({ databases, replica = never() }) {
    const primary = databases[1] ?? never();
    await primary.kill();
    await replica.promote();
    return async () => primary.start();
  },
};

const clock = (hours: 1 | -1): Fault => ({
  ...DEFAULTS,
  name: `node 1: its clock jumps by ${hours > 0 ? "+" : "−"}1 h`,
  victim: "the clock of node 1",
  mayFail: false,
  obstacle: ({ setClock }) => (setClock === undefined ? "libfaketime is not installed" : undefined),
  async begin({ setClock = never() }) {
    setClock(hours * 3_600);
    return () => setClock(0);
  },
});

const secondNode: Fault = {
  ...DEFAULTS,
  name: "shard 1: a second node comes, and the first is killed",
  victim: "node 1",
  recoverMs: PROCESS_RECOVERS_MS,
  staleMs: STALE_UNPUBLISHED_MS,
  touches: SHARD_1,
  async begin({ spare, nodes }) {
    const node = nodes[1] ?? never();
    await spare.start();
    await sleep(3_000); // both serve the shard
    await node.kill();
    return async () => {
      await node.start();
      await spare.stop();
    };
  },
};

/** Routers read the map every second: while slots move several times a second, no router's map is ever right. */
const staleMaps: Fault = {
  ...DEFAULTS,
  name: "routers: their maps are always stale",
  victim: "the map",
  mayFail: false,
  async begin({ catalogUrl }) {
    let moves = 0;
    const move = async (): Promise<void> => {
      // From the end of the slots, over to the other shard and back. A slot with events refuses to move.
      const slot = (SLOT_COUNT - 1 - ((moves >> 1) % 64)) as Slot;
      const to = SHARDS[moves % 2 === 0 ? 0 : 1] as string as ShardId;
      moves += 1;
      await moveEmptySlot(catalogUrl, slot, to).catch((error: unknown) => {
        if (!String(error).includes("holds events")) throw error;
      });
    };
    const end = repeated(100, move);
    return async () => {
      await end();
      if (moves % 2 === 1) await move();
    };
  },
};

const ofRouter = { touches: { shards: [], routers: [0] } };
const ofNode = { touches: SHARD_1, staleMs: STALE_UNPUBLISHED_MS };
const ofDatabase = { touches: SHARD_1 };
const ofPooler = {
  ...ofDatabase,
  needs: "pooler" as const,
  obstacle: ({ pooler }: LoadedCluster) => (pooler === undefined ? "pgbouncer is not on PATH" : undefined),
};
const ofRedis = { mayFail: false };
const ofRabbitmq = {
  touches: { ...NOBODY, async: true },
  obstacle: ({ rabbitmq }: LoadedCluster) =>
    rabbitmq === undefined ? "rabbitmq-server is not on PATH" : undefined,
};
const router = ({ routers }: LoadedCluster) => routers[0];
const node = ({ nodes }: LoadedCluster) => nodes[1];
const database = ({ databases }: LoadedCluster) => databases[1];

/** Each harms one of two: the other shows what it should not notice. */
export const FAULTS: readonly Fault[] = [
  ...lost("router 0", router, { ...ofRouter, recoverMs: PROCESS_RECOVERS_MS }),
  ...lost("node 1", node, { ...ofNode, recoverMs: PROCESS_RECOVERS_MS }),
  ...lost("PostgreSQL 1", database, ofDatabase),
  ...lost("Redis", ({ redis }) => redis, ofRedis),
  ...lost("RabbitMQ", ({ rabbitmq }) => rabbitmq, ofRabbitmq),
  ...lost("catalog", ({ catalog }) => catalog, { mayFail: false }),
  ...stormy("routers – node 1", ofNode),
  ...stormy("node 1 – PostgreSQL 1", ofNode),
  ...stormy("router 0 – Redis", ofRedis),
  ...stormy("node 1 – Redis", { ...ofRedis, staleMs: STALE_UNPUBLISHED_MS }),
  withoutFiles("router 0", router, ofRouter),
  withoutFiles("node 1", node, ofNode),
  terminated,
  fullDisk,
  secondNode,
  staleMaps,
  clock(1),
  clock(-1),
  ...lost("PgBouncer", ({ pooler }) => pooler, ofPooler),
  promotion,
];
