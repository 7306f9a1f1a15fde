/**
 * The shard's booking requests, from the queue to their decision. Requests wait in the same lanes as the commands of routers
 * and are decided by the same function. A message is acknowledged only when the outcome of its request is committed; what a
 * fault left undecided is tried again, before anything newer of its queue, so an event's requests keep their order (Q4).
 * A message that comes twice does no harm: its request's outcome is known by then (Q1).
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type BookingId, type ShardId, slotOfBooking, timeOf } from "../../shared/domain/ids.ts";
import type { CommandResult } from "../../shared/domain/outcomes.ts";
import type { Slot } from "../../shared/domain/slots.ts";
import type { Clock } from "../../shared/process/clock.ts";
import type { Log } from "../../shared/process/log.ts";
import type { Broker, Consumer, Delivery } from "../../shared/queue/broker.ts";
import { commandFrom, messageOf, type RequestCommand } from "../../shared/queue/message.ts";
import { DEAD_QUEUE, queueOf, queuesOf } from "../../shared/queue/queues.ts";
import type { Lanes } from "../decide/lanes.ts";

/** Requests of one queue that are decided together. */
const CHUNK_MAX = 500;
/** So many that the next requests are here before those before them are decided. */
const PREFETCH = 2 * CHUNK_MAX;
/** A request that no batch took in this time is tried again. */
const DEADLINE_MS = 5_000;
/** Pauses after a fault: each is twice as long as the one before. */
const PAUSE_MIN_MS = 50;
const PAUSE_MAX_MS = 1_000;
/** So often PostgreSQL may refuse a request for its content. */
const TRIES_MAX = 5;

/** Failures after which nothing is known to be decided. */
const RETRIED: ReadonlySet<CommandResult["outcome"]> = new Set([
  "overloaded",
  "rate_limited",
  "shard_unavailable",
  "outcome_unknown",
]);

export const REQUEST_RESULTS = ["decided", "lapsed", "dead"] as const;
export type RequestResult = (typeof REQUEST_RESULTS)[number];

export interface IntakeParts {
  readonly shard: ShardId;
  readonly lanes: Pick<Lanes, "run">;
  /** The owner of a slot by the newest map, if there is a map. */
  readonly ownerOf: (slot: Slot) => ShardId | undefined;
  readonly counted: (result: RequestResult, count: number) => void;
  readonly clock: Clock;
  readonly log: Log;
}

export type IntakeBroker = Pick<Broker, "up" | "publish" | "waitingIn" | "stopConsuming" | "close">;

/** Where a message goes. */
type Publish = Broker["publish"];

/** All queues of a shard. */
export class Intake {
  readonly #lines: readonly Line[];
  #broker: IntakeBroker | undefined;

  constructor(parts: IntakeParts) {
    const publish: Publish = async (...message) => this.#broker?.publish(...message) ?? "away";
    this.#lines = queuesOf(parts.shard).map((queue) => new Line(queue, parts, publish));
  }

  /** From now on requests are taken and decided. */
  start(connect: (consumers: readonly Consumer[]) => IntakeBroker): void {
    this.#broker = connect(this.#lines);
  }

  /** Whether the connection to the broker works. */
  get up(): boolean {
    return this.#broker?.up ?? false;
  }

  /** Asks how many requests wait in the broker. */
  async sample(): Promise<void> {
    await Promise.all(
      this.#lines.map(async (line) => (line.waitingInBroker = await this.#broker?.waitingIn(line.queue))),
    );
  }

  /** Requests that nobody has decided, as far as this node knows. */
  get depth(): number {
    return this.#lines.reduce((sum, { held, waitingInBroker = 0 }) => sum + held.length + waitingInBroker, 0);
  }

  /** The age of the oldest request that was delivered here and has no outcome; 0 without one. */
  get oldestSeconds(): number {
    return Math.max(0, ...this.#lines.map((line) => line.oldestSeconds));
  }

  /** An estimate of the requests before this one; null when this node cannot know. */
  aheadOf(id: BookingId): number | null {
    return this.#lines[slotOfBooking(id) % this.#lines.length]?.aheadOf(id) ?? null;
  }

  /** Takes no more; resolves when what was taken has its outcome, or goes back. */
  async stop(): Promise<void> {
    for (const line of this.#lines) line.stop();
    await this.#broker?.stopConsuming();
    for (const line of this.#lines) await line.working;
    await this.#broker?.close();
  }
}

/** A delivery without an outcome. */
interface Held {
  readonly delivery: Delivery;
  readonly command: RequestCommand | { readonly unreadable: string };
  tries: number;
}

/** One queue. */
class Line implements Consumer {
  readonly queue: string;
  readonly prefetch = PREFETCH;
  readonly #parts: IntakeParts;
  readonly #publish: Publish;
  /** In the order of the queue. */
  #waiting: Held[] = [];
  #underWay: readonly Held[] = [];
  #stopping = new AbortController();
  #connections = 0;
  #pauseMs = PAUSE_MIN_MS;
  working: Promise<void> | undefined;
  waitingInBroker: number | undefined;

  constructor(queue: string, parts: IntakeParts, publish: Publish) {
    this.queue = queue;
    this.#parts = parts;
    this.#publish = publish;
  }

  get held(): readonly Held[] {
    return [...this.#underWay, ...this.#waiting];
  }

  get oldestSeconds(): number {
    const acceptedAt = acceptedAtOf(this.#underWay[0] ?? this.#waiting[0]);
    return acceptedAt === undefined ? 0 : Math.max(0, this.#parts.clock.now() - acceptedAt) / 1000;
  }

  aheadOf(id: BookingId): number | null {
    const { held, waitingInBroker } = this;
    const newest = acceptedAtOf(held.at(-1));
    // Without a delivery, another node takes from this queue.
    if (newest === undefined || waitingInBroker === undefined) return null;
    const acceptedAt = timeOf(id);
    if (acceptedAt <= newest) return held.filter((each) => (acceptedAtOf(each) ?? 0) < acceptedAt).length;
    // As if they had come evenly.
    const share = (acceptedAt - newest) / Math.max(1, this.#parts.clock.now() - newest);
    return held.length + Math.round(waitingInBroker * Math.min(1, share));
  }

  opened(): void {
    this.#connections += 1;
    this.#waiting = [];
  }

  deliver(delivery: Delivery): void {
    if (this.#stopping.signal.aborted) return;
    this.#waiting.push({ delivery, command: commandFrom(delivery.content), tries: 0 });
    this.working ??= this.#work().finally(() => (this.working = undefined));
  }

  stop(): void {
    this.#stopping.abort();
  }

  async #work(): Promise<void> {
    const { signal } = this.#stopping;
    // The event loop turns once, so that all deliveries of one read are decided together.
    await new Promise(setImmediate);
    while (this.#waiting.length > 0 && !signal.aborted) {
      const connection = this.#connections;
      this.#underWay = this.#waiting.splice(0, CHUNK_MAX);
      const open = await this.#settle(this.#underWay);
      this.#underWay = [];
      // Those of a lost connection come again.
      if (open.length > 0 && connection === this.#connections) this.#waiting.unshift(...open);
      if (open.length === 0) {
        this.#pauseMs = PAUSE_MIN_MS;
        continue;
      }
      await sleep(this.#pauseMs, undefined, { signal }).catch(() => undefined);
      this.#pauseMs = Math.min(2 * this.#pauseMs, PAUSE_MAX_MS);
    }
  }

  /** Returns those that still have no outcome. */
  async #settle(chunk: readonly Held[]): Promise<readonly Held[]> {
    const { clock, lanes, counted } = this.#parts;
    const deadline = clock.elapsed() + DEADLINE_MS;
    const results = await Promise.all(
      chunk.map(async ({ command }) =>
        "unreadable" in command ? undefined : (await lanes.run(command, deadline)).result,
      ),
    );
    const settled = await Promise.all(
      chunk.map(async (held, index) => this.#isSettled(held, results[index])),
    );
    const open = chunk.filter((_, index) => settled[index] === undefined);
    if (open.length === 0) chunk.at(-1)?.delivery.acknowledge(true);
    else
      for (const [index, held] of chunk.entries())
        if (settled[index] !== undefined) held.delivery.acknowledge();
    for (const [result, all] of Map.groupBy(settled, (result) => result))
      if (result !== undefined && result !== "elsewhere") counted(result, all.length);
    return open;
  }

  /** What the broker may forget, and why; undefined for what it must keep. */
  async #isSettled(
    held: Held,
    result: CommandResult | undefined,
  ): Promise<RequestResult | "elsewhere" | undefined> {
    const { command } = held;
    if ("unreadable" in command) return this.#bury(held, command.unreadable);
    const outcome = result?.outcome;
    if (outcome === undefined || RETRIED.has(outcome)) return undefined;
    if (outcome === "wrong_shard") return this.#forward(command);
    if (outcome === "internal") {
      held.tries += 1;
      return held.tries < TRIES_MAX ? undefined : this.#bury(held, "the database refuses it");
    }
    return outcome === "lapsed" ? "lapsed" : "decided";
  }

  /** To the queue of the slot's new owner. Sent twice, it is decided once. */
  async #forward(command: RequestCommand): Promise<"elsewhere" | undefined> {
    const owner = this.#parts.ownerOf(command.slot);
    // The map is still that of before the slot was given away.
    if (owner === undefined || owner === this.#parts.shard) return undefined;
    const published = await this.#publish(
      queueOf(owner, command.slot),
      command.requestId,
      messageOf(command),
    );
    return published === "confirmed" ? "elsewhere" : undefined;
  }

  /** Nobody can decide it: its request will lapse. */
  async #bury({ delivery, command }: Held, reason: string): Promise<"dead" | undefined> {
    const id = "unreadable" in command ? crypto.randomUUID() : command.requestId;
    const headers = { reason, queue: this.queue };
    if ((await this.#publish(DEAD_QUEUE, id, delivery.content, headers)) !== "confirmed") return undefined;
    this.#parts.log.error({ queue: this.queue, reason }, "a booking request went to the dead letters");
    return "dead";
  }
}

function acceptedAtOf(held: Held | undefined): number | undefined {
  return held === undefined || "unreadable" in held.command ? undefined : timeOf(held.command.requestId);
}
