/**
 * Brings one shard into the tables: copies what is there, if that was not done yet, and then follows the shard's log. It can
 * be ended at any moment, and goes on from where the tables are. Two that do the same do it once.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { z } from "zod";
import { type Database, DatabaseError } from "../../shared/database/database.ts";
import type { Change } from "../../shared/domain/changes.ts";
import type { ShardId } from "../../shared/domain/ids.ts";
import type { Log } from "../../shared/process/log.ts";
import { Outage } from "../../shared/process/outage.ts";
import { CallError, type NodeClient } from "../../shared/wire/node-client.ts";
import {
  type ChangesAnswer,
  changesAnswerSchema,
  copyAnswerSchema,
  COPY_PAGE_MAX,
  type CopyPage,
  type CopyRequest,
  RPC,
} from "../../shared/wire/rpc.ts";
import { findTables, isMissing, type ShardPosition } from "../views/tables.ts";
import { rowsOf, rowsOfPage, type Writer } from "../views/writing.ts";

/** How long a node lets a call wait for a change. Idle shards are this much behind at most. */
const CHANGES_WAIT_MS = 1_000;
/** Beyond that wait. */
const CALL_TIMEOUT_MS = 5_000;
const RETRY_MS = 100;
const RETRY_MAX_MS = 2_000;
/** While tables are exchanged, they stand still for a moment. */
const STANDSTILL_LOOK_MS = 20;

/**
 * Why a follower has ended: it was stopped, other tables are in the place of its own, or the shard's log begins anew, so what
 * was followed may not be what is there.
 */
export type FollowEnd = "stopped" | "replaced" | "dropped";

export interface FollowerParts {
  readonly shard: ShardId;
  /** Of the shard; whichever answers is asked. */
  readonly nodes: () => readonly NodeClient[];
  /** By which nodes know who follows. */
  readonly name: string;
  readonly database: Pick<Database, "query">;
  readonly writer: Pick<Writer, "schema" | "build" | "begin" | "write">;
  /** Hears how far the tables are, and of the changes that have just come in. */
  readonly reached: (shard: ShardId, position: ShardPosition, changes: readonly Change[]) => void;
  readonly log: Log;
}

export class Follower {
  readonly #parts: FollowerParts;
  readonly #outage: Outage;
  #failures = 0;

  constructor(parts: FollowerParts) {
    this.#parts = parts;
    this.#outage = new Outage(parts.log, `following ${parts.shard} into ${parts.writer.schema}`);
  }

  async run(signal: AbortSignal): Promise<FollowEnd> {
    while (!signal.aborted) {
      try {
        const end = await this.#follow(signal);
        if (end !== undefined) return end;
      } catch (error) {
        if (signal.aborted) break;
        if (isMissing(error)) continue;
        if (!(error instanceof CallError || error instanceof DatabaseError)) throw error;
        this.#outage.failed(error);
        await rest(Math.min(RETRY_MS * 2 ** this.#failures, RETRY_MAX_MS), signal);
        this.#failures += 1;
      }
    }
    return "stopped";
  }

  /** Goes on from where the tables are. Returns undefined when that must be found out anew. */
  async #follow(signal: AbortSignal): Promise<FollowEnd | undefined> {
    const { shard, database, writer } = this.#parts;
    const found = await findTables(database, writer.schema);
    if (found?.build === null) {
      await rest(STANDSTILL_LOOK_MS, signal);
      return undefined;
    }
    if (found?.build !== writer.build) return "replaced";
    const from = found.positions[shard];
    if (from === undefined) {
      const { position } = await this.#changesAfter(null, 0, signal);
      await writer.begin(shard, position, cursorText("events", null));
      return undefined;
    }
    this.#parts.reached(shard, from, []);
    return from.copied === null ? this.#followLog(from, signal) : this.#copy(from, signal);
  }

  async #copy(from: ShardPosition, signal: AbortSignal): Promise<undefined> {
    const { shard, writer } = this.#parts;
    let known = from;
    while (known.copied !== null && !signal.aborted) {
      const { kind, after } = cursorIn(known.copied);
      const asked = performance.now();
      const page = await this.#page({ kind, after, limit: COPY_PAGE_MAX }, signal);
      const took = performance.now() - asked;
      const copied =
        page.next !== null
          ? cursorText(kind, page.next)
          : kind === "events"
            ? cursorText("bookings", null)
            : null;
      const next = { ...known, copied };
      if (!(await writer.write(shard, known, next, rowsOfPage(page)))) return;
      this.#worked();
      known = next;
      // A shard that sells has better things to do: it has as much time for them as a page takes it.
      await rest(took, signal);
    }
  }

  async #followLog(from: ShardPosition, signal: AbortSignal): Promise<FollowEnd | undefined> {
    const { shard, writer, reached } = this.#parts;
    let known = from;
    // At first it is told at once how things are.
    let waitMs = 0;
    while (!signal.aborted) {
      const { changes, position, asOf, dropped } = await this.#changesAfter(known.position, waitMs, signal);
      if (dropped) return "dropped";
      const next = { position, copied: null, asOf };
      if (!(await writer.write(shard, known, next, rowsOf(changes)))) return undefined;
      this.#worked();
      reached(shard, next, changes);
      known = next;
      waitMs = CHANGES_WAIT_MS;
    }
    return "stopped";
  }

  async #changesAfter(after: number | null, waitMs: number, signal: AbortSignal) {
    const body = { follower: this.#parts.name, after, waitMs };
    const timeoutMs = waitMs + CALL_TIMEOUT_MS;
    const answer: ChangesAnswer = await this.#ask(
      (node) => node.call({ path: RPC.changes, body, answer: changesAnswerSchema, timeoutMs }),
      signal,
    );
    if (answer.outcome === "changes") return { ...answer, dropped: false };
    if (answer.outcome === "position_dropped") return { changes: [], position: 0, asOf: null, dropped: true };
    throw new CallError("unsent", `the node of ${this.#parts.shard} says ${answer.outcome}`);
  }

  async #page(body: CopyRequest, signal: AbortSignal): Promise<CopyPage> {
    const answer = await this.#ask(
      (node) => node.call({ path: RPC.copy, body, answer: copyAnswerSchema, timeoutMs: CALL_TIMEOUT_MS }),
      signal,
    );
    if (answer.outcome === "copied") return answer;
    throw new CallError("unsent", `the node of ${this.#parts.shard} says ${answer.outcome}`);
  }

  /** Asks one node, after a failure the next one. Does not wait for an answer that nobody wants any more. */
  async #ask<Answer>(ask: (node: NodeClient) => Promise<Answer>, signal: AbortSignal): Promise<Answer> {
    const nodes = this.#parts.nodes();
    const node = nodes[this.#failures % Math.max(1, nodes.length)];
    if (node === undefined) throw new CallError("unsent", `no node of ${this.#parts.shard} is known`);
    return unlessStopped(ask(node), signal);
  }

  #worked(): void {
    this.#failures = 0;
    this.#outage.worked();
  }
}

/** Sleeps, unless it is stopped. */
export async function rest(ms: number, signal: AbortSignal): Promise<void> {
  await sleep(ms, undefined, { signal }).catch(() => undefined);
}

async function unlessStopped<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const stop = (): void => reject(new Error("stopped"));
  signal.addEventListener("abort", stop, { once: true });
  if (signal.aborted) stop();
  try {
    return await Promise.race([work, promise]);
  } finally {
    signal.removeEventListener("abort", stop);
  }
}

const cursorSchema = z.templateLiteral([z.enum(["events", "bookings"]), ":", z.string()]);

function cursorText(kind: CopyRequest["kind"], after: string | null): string {
  return `${kind}:${after ?? ""}`;
}

function cursorIn(text: string): Pick<CopyRequest, "kind" | "after"> {
  const [kind = "", after = ""] = cursorSchema.parse(text).split(":");
  return { kind: kind as CopyRequest["kind"], after: after === "" ? null : after };
}
