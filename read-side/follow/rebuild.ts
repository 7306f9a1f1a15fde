/**
 * Fills new tables from nothing, beside those that serve, and puts them in their place once they are as far. A session of the
 * database holds the lock of rebuilds meanwhile, so there is one at a time, whoever starts it.
 */
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { Connection } from "../../shared/database/connection.ts";
import { type Database, DatabaseError, findPrimary } from "../../shared/database/database.ts";
import type { ShardId } from "../../shared/domain/ids.ts";
import type { Log } from "../../shared/process/log.ts";
import type { Nodes } from "../../shared/wire/nodes.ts";
import { ANSWER_BOOKINGS_MAX } from "../../shared/wire/rpc.ts";
import {
  exchange,
  findTables,
  type Found,
  freeze,
  lockRebuild,
  makeNext,
  type Positions,
  unfreeze,
} from "../views/tables.ts";
import { Writer } from "../views/writing.ts";
import { Follower, type FollowerParts, rest } from "./follower.ts";

const CONNECT_TIMEOUT_MS = 5_000;
/** Of one statement of the session; making tables and exchanging them takes moments. */
const STATEMENT_MS = 30_000;
const LOCK_RETRY_MS = 500;
const LOOK_MS = 50;
/** An answer of fewer bookings had all that there was: new tables will be as far as those that serve in a moment. */
const NEAR_BOOKINGS = ANSWER_BOOKINGS_MAX / 2;
/** So long, the tables that serve stand still at most, before each exchange that is tried. */
const STANDSTILL_MAX_MS = 1_000;

export interface RebuildParts {
  readonly databaseUrl: string;
  /** For the rows. */
  readonly database: Database;
  readonly nodes: Nodes;
  readonly name: string;
  readonly log: Log;
}

/**
 * Resolves when new tables serve; false when it was stopped, or `isNeeded` is not true any more of the tables that serve when
 * its turn has come. Throws DatabaseError, or what else its session met.
 */
export async function rebuild(
  parts: RebuildParts,
  isNeeded: (found: Found | undefined) => boolean,
  stopped: AbortSignal,
): Promise<boolean> {
  const { databaseUrl, database, log } = parts;
  using session = await openSession(databaseUrl);
  while (!(await lockRebuild(session))) {
    await rest(LOCK_RETRY_MS, stopped);
    if (stopped.aborted) return false;
  }
  if (!isNeeded(await findTables(database))) return false;
  const began = performance.now();
  const writer = new Writer(database, "views_next", randomUUID());
  log.info({ build: writer.build }, "filling new tables");
  await makeNext(session, writer.build);

  let filling = new Filling(parts, writer, stopped);
  try {
    while (!stopped.aborted && !filling.isSpoilt) {
      if (filling.isNear() && (await tryExchange(session, database, async () => filling.stop()))) {
        log.info({ build: writer.build, seconds: secondsSince(began) }, "new tables serve");
        return true;
      }
      if (filling.isStopped) filling = new Filling(parts, writer, stopped);
      await rest(LOOK_MS, stopped);
      // Also shows that the session, and with it the lock, is still there.
      await session.run("select");
    }
    if (filling.isSpoilt) log.warn({ build: writer.build }, "the new tables cannot become whole any more");
    return false;
  } finally {
    await filling.stop();
  }
}

/** Brings all shards into the new tables. */
class Filling {
  readonly #parts: RebuildParts;
  readonly #writer: Writer;
  readonly #ending = new AbortController();
  readonly #signal: AbortSignal;
  readonly #followers = new Map<ShardId, Promise<unknown>>();
  readonly #near = new Set<ShardId>();
  /** A follower has ended although it was not stopped: these tables will never be whole. */
  isSpoilt = false;

  constructor(parts: RebuildParts, writer: Writer, stopped: AbortSignal) {
    this.#parts = parts;
    this.#writer = writer;
    this.#signal = AbortSignal.any([stopped, this.#ending.signal]);
  }

  get isStopped(): boolean {
    return this.#ending.signal.aborted;
  }

  /** Whether every shard's last answer had all that there was. Follows shards that are new. */
  isNear(): boolean {
    const shards = [...(this.#parts.nodes.map?.owning ?? [])];
    for (const shard of shards)
      if (!this.#followers.has(shard)) this.#followers.set(shard, this.#follow(shard));
    return shards.length > 0 && shards.every((shard) => this.#near.has(shard));
  }

  /** Resolves when nobody writes into the new tables any more. */
  async stop(): Promise<void> {
    this.#ending.abort();
    await Promise.all(this.#followers.values());
  }

  async #follow(shard: ShardId): Promise<void> {
    const { nodes } = this.#parts;
    const reached: FollowerParts["reached"] = (_, { asOf }, changes) => {
      const bookings = changes.reduce((sum, change) => sum + change.bookings.length, 0);
      if (asOf !== null && bookings < NEAR_BOOKINGS) this.#near.add(shard);
      else this.#near.delete(shard);
    };
    const writer = this.#writer;
    await new Follower({ ...this.#parts, shard, nodes: () => nodes.of(shard), writer, reached }).run(
      this.#signal,
    );
    if (!this.#signal.aborted) this.isSpoilt = true;
  }
}

async function openSession(databaseUrl: string): Promise<Connection> {
  try {
    const url = await findPrimary(databaseUrl, CONNECT_TIMEOUT_MS);
    return new Connection({
      url,
      session: { application_name: "onsale rebuild", client_min_messages: "warning" },
      statementMs: STATEMENT_MS,
    });
  } catch (cause) {
    throw new DatabaseError("unreachable", String(cause), { cause });
  }
}

/** `stop` ends what fills the new tables. It is called once they are as far as those that serve, which stand still by then. */
async function tryExchange(
  session: Connection,
  database: Database,
  stop: () => Promise<void>,
): Promise<boolean> {
  const found = await findTables(database);
  if (found !== undefined) await freeze(session);
  let isDone = false;
  try {
    const until = performance.now() + STANDSTILL_MAX_MS;
    for (let isStopped = false; !isDone && performance.now() < until;) {
      const [serving, next] = [await findTables(database), await findTables(database, "views_next")];
      if (isBehind(next?.positions, serving?.positions)) {
        await sleep(1);
        continue;
      }
      if (!isStopped) await stop();
      isStopped = true;
      isDone = await exchange(session, found === undefined);
    }
  } finally {
    const build = found?.build ?? undefined;
    if (!isDone && !session.isClosed && build !== undefined) await unfreeze(session, build);
  }
  return isDone;
}

function isBehind(next: Positions = {}, serving: Positions = {}): boolean {
  return Object.entries<Positions[ShardId]>(serving).some(
    ([shard, { position }]) => (next[shard as ShardId]?.position ?? position) < position,
  );
}

const secondsSince = (began: number): number => Math.round((performance.now() - began) / 100) / 10;
