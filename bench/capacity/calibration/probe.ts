/**
 * Everything of a cluster that counts up while it works: processor time of each process, the counters in its metrics, in
 * Redis and in PostgreSQL. Two samples, one before and one after a load, say what the load did.
 */
import { readFileSync } from "node:fs";
import { cpus } from "node:os";
import { Redis } from "ioredis";
import { Database, type Statement } from "../../../shared/database/database.ts";
import type { BenchCluster } from "../../cluster.ts";
import { exactSeconds, exactSecondsOfTree } from "./processor-time.ts";

/** Numbers that only rise, or their differences. Processor time in seconds. */
export interface Sample {
  readonly seconds: number;
  /** The first router, which gets the load, and the second, which only hears of changes. */
  readonly router: number;
  readonly listener: number;
  readonly nodes: number;
  readonly postgres: number;
  readonly redis: number;
  /** Of all processes of the machine, whosever they are. */
  readonly machine: number;
  /** That routers have answered. */
  readonly requests: number;
  /** Calls of routers to shards with what they carried, and batches of lanes with their commands. */
  readonly calls: number;
  readonly carried: number;
  readonly batches: number;
  readonly batched: number;
  /** Reads that memory could not answer, and that Redis could not answer either. */
  readonly misses: number;
  readonly shardReads: number;
  /** Changed events that Redis was told of, all commands there, and its traffic in bytes. */
  readonly published: number;
  readonly redisCommands: number;
  readonly redisIn: number;
  readonly redisOut: number;
  /** Bytes of write-ahead log, and of all tables and indexes. */
  readonly log: number;
  readonly size: number;
  /** Bytes over the loopback interface, whoever sent them. */
  readonly loopback: number;
}

const DATABASE_COUNTERS: Statement = {
  name: "bench-database-counters",
  text: `select (pg_current_wal_insert_lsn() - '0/0')::float8 as log, pg_database_size(current_database())::float8 as size`,
};
const ANSWERED = "onsale_http_requests_total";
const TIMEOUTS = { connectTimeoutMs: 10_000, statementTimeoutMs: 10_000, lockTimeoutMs: 10_000 };

export class Probe implements AsyncDisposable {
  readonly #cluster: BenchCluster;
  readonly #databases: Database[];
  readonly #redis: Redis | undefined;

  constructor(cluster: BenchCluster) {
    this.#cluster = cluster;
    this.#databases = cluster.shards.map(
      ({ databaseUrl }) =>
        new Database({
          url: databaseUrl,
          applicationName: "onsale-bench",
          connectionsMax: 1,
          waitersMax: 10,
          ...TIMEOUTS,
        }),
    );
    this.#redis = cluster.redis && new Redis(cluster.redis.url, { maxRetriesPerRequest: 1 });
  }

  /** Asking costs time and bytes, too: it is done before what counts begins, and after it has ended. */
  async sample(of: "the start" | "the end"): Promise<Sample> {
    const ended = this.#now();
    const counters = await this.#counters();
    return { ...counters, ...(of === "the end" ? ended : this.#now()) };
  }

  /** Requests that routers have answered so far. */
  async answered(): Promise<number> {
    const texts = await Promise.all(this.#cluster.routers.map(async ({ adminUrl }) => metricsOf(adminUrl)));
    return sum(texts.map((text) => metric(text, ANSWERED, "")));
  }

  /** Bytes that Redis keeps for one event that it holds now; 0 without one. */
  async keptBytes(): Promise<number> {
    const key = (await this.#redis?.randomkey()) ?? undefined;
    return key === undefined ? 0 : Number(await this.#redis?.memory("USAGE", key));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#redis?.disconnect();
    await Promise.all(this.#databases.map(async (database) => database.close()));
  }

  #now() {
    const { routers, shards, redis } = this.#cluster;
    const [router, listener] = routers.map(({ pid }) => exactSeconds(pid));
    return {
      seconds: performance.now() / 1000,
      router: router ?? 0,
      listener: listener ?? 0,
      nodes: sum(shards.map(({ nodePid }) => exactSeconds(nodePid))),
      postgres: sum(shards.map(({ postgresPid }) => exactSecondsOfTree(postgresPid))),
      redis: redis?.pid === undefined ? 0 : exactSeconds(redis.pid),
      machine: sum(cpus().map(({ times: { user, nice, sys, irq } }) => user + nice + sys + irq)) / 1000,
      loopback: loopbackBytes(),
    };
  }

  async #counters() {
    const { routers, shards } = this.#cluster;
    const [atRouters, atNodes, sizes, redis] = await Promise.all([
      Promise.all(routers.map(async ({ adminUrl }) => metricsOf(adminUrl))),
      Promise.all(shards.map(async ({ nodeAdminUrl }) => metricsOf(nodeAdminUrl))),
      Promise.all(
        this.#databases.map(async (database) =>
          database.query<{ log: number; size: number }>(DATABASE_COUNTERS),
        ),
      ),
      this.#redisInfo(),
    ]);
    const read = (name: string, labels = "") => sum(atRouters.map((text) => metric(text, name, labels)));
    const node = (name: string) => sum(atNodes.map((text) => metric(text, name, "")));
    const rows = sizes.flat();
    const shardReads = read("onsale_event_cache_requests_total", 'tier="shard"');
    const { written, ...ofRedis } = redis;
    return {
      requests: read(ANSWERED),
      calls: read("onsale_shard_rpc_batch_size_count"),
      carried: read("onsale_shard_rpc_batch_size_sum"),
      batches: node("onsale_lane_batch_size_count"),
      batched: node("onsale_lane_batch_size_sum"),
      misses: read("onsale_event_cache_requests_total", 'tier="memory",result="miss"'),
      shardReads,
      // A router writes what it has read from a shard, and tells nobody.
      published: written - shardReads,
      ...ofRedis,
      log: sum(rows.map(({ log }) => log)),
      size: sum(rows.map(({ size }) => size)),
    };
  }

  async #redisInfo() {
    const info = (await this.#redis?.info("everything")) ?? "";
    const field = (pattern: RegExp) => Number(pattern.exec(info)?.[1] ?? 0);
    return {
      written: field(/^cmdstat_hset:calls=(\d+)/m),
      redisCommands: field(/^total_commands_processed:(\d+)/m),
      redisIn: field(/^total_net_input_bytes:(\d+)/m),
      redisOut: field(/^total_net_output_bytes:(\d+)/m),
    };
  }
}

/** What happened between two samples. */
export function between(before: Sample, after: Sample): Sample {
  return Object.fromEntries(
    Object.entries(after).map(([name, value]) => [name, value - before[name as keyof Sample]]),
  ) as unknown as Sample;
}

async function metricsOf(adminUrl: string): Promise<string> {
  return (await fetch(`${adminUrl}/metrics`)).text();
}

/** The sum of a metric over all its labels that contain `labels`. */
function metric(text: string, name: string, labels: string): number {
  return sum(
    text
      .split("\n")
      .filter(
        (line) => line.startsWith(name) && /^[ {]/.test(line.slice(name.length)) && line.includes(labels),
      )
      .map((line) => Number(line.slice(line.lastIndexOf(" ")))),
  );
}

function loopbackBytes(): number {
  try {
    return Number(/^\s*lo:\s*(\d+)/m.exec(readFileSync("/proc/net/dev", "utf8"))?.[1] ?? 0);
  } catch {
    return 0;
  }
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
