/**
 * Redis keeps snapshots and spreads them. This file is the only door to ioredis. Losing Redis costs time, never truth: every
 * call fails fast instead of queueing, and each connection tells its loss and its return in one log line. So it does when Redis
 * answers, but refuses: because it is full, for example.
 *
 * A snapshot is a hash `{onsale}:3:event:<id>` with the fields `version` and `snapshot`. One script sets it only if it is
 * newer (C2) and publishes it in the same step, so no router ever hears of a version that Redis does not hold.
 */
import { Redis, ReplyError } from "ioredis";
import type { EventId } from "../domain/ids.ts";
import type { Log } from "../process/log.ts";
import { Outage } from "../process/outage.ts";
import { type Snapshot, snapshotsAmong } from "../domain/events.ts";

/**
 * All keys begin with this hash tag, so a Redis in cluster mode keeps them all on one node: one script sets many of them, and
 * the cluster would refuse keys of several nodes (CROSSSLOT).
 */
export const HASH_TAG = "{onsale}";
/** The number stands for the form of a snapshot: releases with different forms do not read each other's. */
const NAMESPACE = `${HASH_TAG}:3`;
const CHANNEL = `${NAMESPACE}:snapshots`;
/** The last defence against an entry that nobody corrected (C4). */
export const ENTRY_TTL_MS = 5_000;
const COMMAND_TIMEOUT_MS = 200;
/** How long Redis is not asked after a failure. */
const REST_MS = 1_000;
const RECONNECT_MAX_MS = 1_000;

const SET_IF_NEWER = `
local newest = {}
for i = 1, #KEYS do
  local version = tonumber(ARGV[2 * i])
  local current = tonumber(redis.call('HGET', KEYS[i], 'version') or '-1')
  if version > current then
    redis.call('HSET', KEYS[i], 'version', ARGV[2 * i], 'snapshot', ARGV[2 * i + 1])
    newest[#newest + 1] = ARGV[2 * i + 1]
  end
  if version >= current then
    redis.call('PEXPIRE', KEYS[i], ARGV[1])
  end
end
if #newest > 0 and ARGV[#ARGV] == 'announce' then
  redis.call('PUBLISH', '${CHANNEL}', '[' .. table.concat(newest, ',') .. ']')
end
return #newest`;

/**
 * - `full`: Redis has no memory left for a write.
 * - `refused`: Redis answered with another error.
 * - `away`: there was no answer, or no connection.
 */
export const REDIS_FAILURES = ["full", "refused", "away"] as const;
export type RedisFailure = (typeof REDIS_FAILURES)[number];

/** One connection. It rests for a moment after a failure. */
export class RedisConnection {
  readonly client: Redis;
  readonly #failed: (reason: RedisFailure) => void;
  /** A full Redis refuses writes and answers reads, so each has its own. */
  readonly #refusals: Readonly<Record<"read" | "write", Outage>>;
  #restsUntil = 0;

  /** `meanwhile` ends the log line of each loss: what happens while Redis is away. `failed` is told of each failed call. */
  constructor(url: string, log: Log, meanwhile: string, failed: (reason: RedisFailure) => void) {
    this.client = connect(url, log, meanwhile);
    this.#failed = failed;
    this.#refusals = {
      read: new Outage(log, "reading from Redis"),
      write: new Outage(log, "writing to Redis"),
    };
  }

  /** False without a connection, and while the connection rests. */
  get up(): boolean {
    return this.client.status === "ready" && performance.now() >= this.#restsUntil;
  }

  /** A failure starts a rest, so a Redis that hangs delays a few callers and not everybody. */
  async timed<T>(kind: "read" | "write", answer: Promise<T>): Promise<T> {
    try {
      const value = await answer;
      this.#refusals[kind].worked();
      return value;
    } catch (error) {
      this.#restsUntil = performance.now() + REST_MS;
      const reason = failureIn(error);
      this.#failed(reason);
      // The loss of the connection has its own log line.
      if (reason !== "away") this.#refusals[kind].failed(error);
      throw error;
    }
  }

  close(): void {
    this.client.disconnect();
  }
}

function failureIn(error: unknown): RedisFailure {
  if (!(error instanceof ReplyError)) return "away";
  return String(error).includes("OOM ") ? "full" : "refused";
}

interface Scripted extends Redis {
  setSnapshotsIfNewer(keyCount: number, ...keysAndArguments: (string | number)[]): Promise<number>;
}

const READS_GO_ON = "reads go to memory and shards";

export class SnapshotStore {
  readonly #connection: RedisConnection;
  readonly #redis: Scripted;

  constructor(url: string, log: Log, failed: (reason: RedisFailure) => void) {
    this.#connection = new RedisConnection(url, log, READS_GO_ON, failed);
    this.#redis = this.#connection.client as Scripted;
    this.#redis.defineCommand("setSnapshotsIfNewer", { lua: SET_IF_NEWER });
  }

  get up(): boolean {
    return this.#connection.up;
  }

  /** Sets each snapshot that is newer than the one in Redis, and publishes those. Throws when Redis is away. */
  async publish(snapshots: readonly Snapshot[]): Promise<void> {
    await this.#set(snapshots, "announce");
  }

  /** Sets a snapshot that was read, if it is newer, and does not publish it: it is no news. Throws when Redis is away. */
  async fill(snapshot: Snapshot): Promise<void> {
    await this.#set([snapshot], "quiet");
  }

  async #set(snapshots: readonly Snapshot[], telling: "announce" | "quiet"): Promise<void> {
    const values = snapshots.flatMap((snapshot) => [snapshot.event.version, JSON.stringify(snapshot)]);
    const keys = snapshots.map((snapshot) => keyOf(snapshot.event.id));
    await this.#connection.timed(
      "write",
      this.#redis.setSnapshotsIfNewer(snapshots.length, ...keys, ENTRY_TTL_MS, ...values, telling),
    );
  }

  /** The snapshot that Redis holds. Throws when Redis is away. */
  async read(id: EventId): Promise<Snapshot | undefined> {
    const found = await this.#connection.timed("read", this.#redis.hget(keyOf(id), "snapshot"));
    const [snapshot] = found === null ? [] : snapshotsFrom(`[${found}]`);
    return snapshot?.event.id === id ? snapshot : undefined;
  }

  close(): void {
    this.#connection.close();
  }
}

/** Hears every snapshot that anybody publishes, until it is closed. */
export class SnapshotFeed {
  readonly #redis: Redis;

  constructor(url: string, log: Log, heard: (snapshots: readonly Snapshot[]) => void) {
    this.#redis = connect(url, log, READS_GO_ON);
    this.#redis.on("message", (_channel, message) => heard(snapshotsFrom(message)));
    this.#redis.on("ready", () => {
      this.#redis.subscribe(CHANNEL).catch((error: unknown) => {
        log.warn({ err: error }, "cannot subscribe to snapshots");
        this.#redis.disconnect(true); // a connection that hears nothing is of no use: the next one tries again
      });
    });
  }

  close(): void {
    this.#redis.disconnect();
  }
}

function connect(url: string, log: Log, meanwhile: string): Redis {
  const redis = new Redis(url, {
    enableOfflineQueue: false,
    enableAutoPipelining: true,
    maxRetriesPerRequest: 0,
    // ioredis would subscribe again by itself, and let nobody catch it when that fails: an end of the process (F8).
    autoResubscribe: false,
    commandTimeout: COMMAND_TIMEOUT_MS,
    connectTimeout: 2_000,
    retryStrategy: (attempt) => Math.min(attempt * 50, RECONNECT_MAX_MS),
  });
  let reported = false;
  redis.on("error", (error: Error) => {
    if (reported) return;
    reported = true;
    log.warn({ reason: error.message }, `Redis is away; ${meanwhile}`);
  });
  redis.on("close", () => {
    if (reported) return;
    reported = true;
    log.warn(`the connection to Redis was lost; ${meanwhile}`);
  });
  redis.on("ready", () => {
    if (reported) log.warn("Redis is back");
    reported = false;
  });
  return redis;
}

function keyOf(id: EventId): string {
  return `${NAMESPACE}:event:${id}`;
}

/** The snapshots in a text from Redis. Anything else there is ignored: other programs may write to Redis too. */
function snapshotsFrom(text: string): Snapshot[] {
  try {
    const found: unknown = JSON.parse(text);
    return Array.isArray(found) ? snapshotsAmong(found) : [];
  } catch {
    return [];
  }
}
