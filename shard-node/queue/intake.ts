/**
 * The shard's booking requests, from the queue to their decision. Requests wait in the same lanes as the commands of routers
 * and are decided by the same function. A message is acknowledged only when the outcome of its request is committed; what a
 * fault left undecided is tried again, before anything newer of its queue, so an event's requests keep their order (Q4).
 * A message that comes twice does no harm: its request's outcome is known by then (Q1).
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type BookingId, type ShardId, slotOfBooking, timeOf } from "../../shared/domain/ids.ts";
import type { RequestCommand } from "../../shared/domain/commands.ts";
import type { CommandResult } from "../../shared/domain/outcomes.ts";
import type { Slot } from "../../shared/domain/slots.ts";
import type { Clock } from "../../shared/process/clock.ts";
import type { Log } from "../../shared/process/log.ts";
import type { Broker, Consumer, Delivery } from "../../shared/queue/broker.ts";
import { messageOf, requestsFrom, type Unreadable } from "../../shared/queue/message.ts";
import { DEAD_QUEUE, queueOf, queuesOf } from "../../shared/queue/queues.ts";
import type { Lanes } from "../decide/lanes.ts";

/** Requests of one queue that are decided together, unless one message has more. */
const CHUNK_MAX = 500;
/** Messages of a queue that a node has: so many that the next requests are here before those before them are decided. */
const PREFETCH = 128;
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
    return this.#lines.reduce((sum, { depth }) => sum + depth, 0);
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

/** A message that is not acknowledged. */
interface Held {
  readonly delivery: Delivery;
  /** Its requests without an outcome. */
  open: readonly Open[] | Unreadable;
}

interface Open {
  readonly request: RequestCommand;
  tries: number;
}

/** What became of a request that the broker may forget; undefined for one that it must keep. */
type Settled = "decided" | "lapsed" | "elsewhere" | undefined;

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

  /** Requests without an outcome, here and, by an estimate, in the broker. */
  get depth(): number {
    return sizeOf(this.#held) + this.#inBroker(this.waitingInBroker ?? 0);
  }

  get oldestSeconds(): number {
    const acceptedAt = acceptedAtOf(this.#held[0]);
    return acceptedAt === undefined ? 0 : Math.max(0, this.#parts.clock.now() - acceptedAt) / 1000;
  }

  aheadOf(id: BookingId): number | null {
    const { waitingInBroker } = this;
    const held = this.#held;
    const newest = acceptedAtOf(held.at(-1));
    // Without a delivery, another node takes from this queue.
    if (newest === undefined || waitingInBroker === undefined) return null;
    const acceptedAt = timeOf(id);
    if (acceptedAt <= newest) return sizeOf(held.filter((each) => (acceptedAtOf(each) ?? 0) < acceptedAt));
    // As if they had come evenly.
    const share = (acceptedAt - newest) / Math.max(1, this.#parts.clock.now() - newest);
    return sizeOf(held) + Math.round(this.#inBroker(waitingInBroker) * Math.min(1, share));
  }

  get #held(): readonly Held[] {
    return [...this.#underWay, ...this.#waiting];
  }

  /** The requests of so many messages, if they are like those that are here. */
  #inBroker(messages: number): number {
    const held = this.#held;
    return held.length === 0 ? messages : Math.round((messages * sizeOf(held)) / held.length);
  }

  opened(): void {
    this.#connections += 1;
    this.#waiting = [];
  }

  deliver(delivery: Delivery): void {
    if (this.#stopping.signal.aborted) return;
    const requests = requestsFrom(delivery.content);
    const open = "unreadable" in requests ? requests : requests.map((request) => ({ request, tries: 0 }));
    this.#waiting.push({ delivery, open });
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
      this.#underWay = this.#takeChunk();
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

  /** The next messages, at least one. */
  #takeChunk(): readonly Held[] {
    let [messages, requests] = [0, 0];
    for (const held of this.#waiting) {
      requests += sizeOf([held]);
      if (messages > 0 && requests > CHUNK_MAX) break;
      messages += 1;
    }
    return this.#waiting.splice(0, messages);
  }

  /** Returns those of which not all requests have an outcome. */
  async #settle(chunk: readonly Held[]): Promise<readonly Held[]> {
    const open = chunk.flatMap((held) => ("unreadable" in held.open ? [] : held.open));
    const results = await this.#decide(open.map(({ request }) => request));
    let next = 0;
    await Promise.all(
      chunk.map(async (held) => {
        if ("unreadable" in held.open) {
          if (await this.#bury(held.delivery.content, held.open.unreadable)) held.open = [];
          return;
        }
        const from = next;
        next += held.open.length;
        const settled = await Promise.all(
          held.open.map(async (each, index) => this.#settled(each, results[from + index])),
        );
        held.open = held.open.filter((_, index) => settled[index] === undefined);
        this.#count(settled);
      }),
    );
    const undone = chunk.filter(({ open: left }) => "unreadable" in left || left.length > 0);
    if (undone.length === 0) chunk.at(-1)?.delivery.acknowledge(true);
    else for (const held of chunk) if (!undone.includes(held)) held.delivery.acknowledge();
    return undone;
  }

  /** Behind a request that a fault left undecided, none of its event is begun: an event's requests keep their order (Q4). */
  async #decide(requests: readonly RequestCommand[]): Promise<readonly CommandResult[]> {
    const { clock, lanes } = this.#parts;
    const deadline = clock.elapsed() + DEADLINE_MS;
    const undecidedFrom = new Map<Slot, number>();
    return Promise.all(
      requests.map(async (request, index) => {
        const { slot } = request;
        const mayBegin = (): boolean => index <= (undecidedFrom.get(slot) ?? index);
        const { result } = await lanes.run(request, { deadline, mayBegin });
        if (RETRIED.has(result.outcome))
          undecidedFrom.set(slot, Math.min(index, undecidedFrom.get(slot) ?? index));
        return result;
      }),
    );
  }

  async #settled(open: Open, result: CommandResult | undefined): Promise<Settled> {
    const { request } = open;
    const outcome = result?.outcome;
    if (outcome === undefined || RETRIED.has(outcome)) return undefined;
    if (outcome === "wrong_shard") return this.#forward(request);
    if (outcome === "internal") {
      open.tries += 1;
      if (open.tries < TRIES_MAX) return undefined;
      return (await this.#bury(messageOf([request]), "the database refuses it")) ? "elsewhere" : undefined;
    }
    return outcome === "lapsed" ? "lapsed" : "decided";
  }

  #count(settled: readonly Settled[]): void {
    for (const result of ["decided", "lapsed"] as const) {
      const count = settled.filter((each) => each === result).length;
      if (count > 0) this.#parts.counted(result, count);
    }
  }

  /** To the queue of the slot's new owner. Sent twice, it is decided once. */
  async #forward(request: RequestCommand): Promise<"elsewhere" | undefined> {
    const owner = this.#parts.ownerOf(request.slot);
    // The map is still that of before the slot was given away.
    if (owner === undefined || owner === this.#parts.shard) return undefined;
    const queue = queueOf(owner, request.slot);
    const published = await this.#publish(queue, request.requestId, messageOf([request]));
    return published === "confirmed" ? "elsewhere" : undefined;
  }

  /** Nobody can decide it: its requests will lapse. Says whether the dead letters have it. */
  async #bury(content: Buffer, reason: string): Promise<boolean> {
    const headers = { reason, queue: this.queue };
    if ((await this.#publish(DEAD_QUEUE, crypto.randomUUID(), content, headers)) !== "confirmed")
      return false;
    this.#parts.log.error({ queue: this.queue, reason }, "booking requests went to the dead letters");
    this.#parts.counted("dead", 1);
    return true;
  }
}

function sizeOf(messages: readonly Held[]): number {
  return messages.reduce((sum, { open }) => sum + ("unreadable" in open ? 1 : open.length), 0);
}

function acceptedAtOf(held: Held | undefined): number | undefined {
  if (held === undefined || "unreadable" in held.open) return undefined;
  const [first] = held.open;
  return first === undefined ? undefined : timeOf(first.request.requestId);
}
