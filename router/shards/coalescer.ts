/**
 * Carries many clients' requests for one shard in few calls. While fewer than `inFlightMax` calls are under way, a request
 * leaves at once; else it waits for the next call. So the size of a call follows the load, and no timer adds latency.
 */
import type { Clock } from "../../shared/process/clock.ts";
import type { Span } from "../../shared/watch/tracing.ts";

export interface CoalescerLimits {
  readonly batchMax: number;
  readonly inFlightMax: number;
  /** Items waiting for a call; one more is refused. */
  readonly queueMax: number;
}

export interface Outgoing<Item> {
  readonly item: Item;
  /** By the clock's `elapsed()`. */
  readonly deadline: number;
  /** The span of the item's request, if that is sampled. */
  readonly span: Span | undefined;
}

interface Waiting<Item, Result> extends Outgoing<Item> {
  readonly resolve: (result: Result) => void;
  sent: boolean;
}

/** How long an item outlives its deadline, so that a node's own answer at the deadline still arrives. */
export const DEADLINE_SLACK_MS = 200;

/** Sends the items of a coalescer, or refuses them. */
export interface Sender<Item, Result> {
  /** Resolves with one result for each item, in order. Never throws. */
  send(batch: readonly Outgoing<Item>[]): Promise<readonly Result[]>;
  /** The result of an item that is not sent. */
  shed(reason: "queue_full" | "deadline"): Result;
  /** The result of an item that was sent and has no answer at its deadline. */
  unanswered(): Result;
}

export class Coalescer<Item, Result> {
  readonly #limits: CoalescerLimits;
  readonly #sender: Sender<Item, Result>;
  readonly #clock: Clock;
  #queue: Waiting<Item, Result>[] = [];
  /** Items without a result, in order of arrival. All have the same time, so that is the order of their deadlines. */
  readonly #open = new Set<Waiting<Item, Result>>();
  #waking = false;
  #inFlight = 0;
  #scheduled = false;

  constructor(limits: CoalescerLimits, sender: Sender<Item, Result>, clock: Clock) {
    this.#limits = limits;
    this.#sender = sender;
    this.#clock = clock;
  }

  run(item: Item, deadline: number, span?: Span): Promise<Result> {
    if (this.#queue.length >= this.#limits.queueMax) return Promise.resolve(this.#sender.shed("queue_full"));
    return new Promise((resolve) => {
      const waiting = { item, deadline, span, resolve, sent: false };
      this.#queue.push(waiting);
      this.#open.add(waiting);
      if (!this.#waking) this.#wakeAt(deadline);
      this.#schedule();
    });
  }

  /** Settles each item soon after its own deadline, however long its call goes on. */
  #wakeAt(deadline: number): void {
    // A millisecond more, because a timer may fire a little early.
    const pause = Math.max(1, deadline + DEADLINE_SLACK_MS + 1 - this.#clock.elapsed());
    setTimeout(() => this.#settleLate(), pause).unref();
    this.#waking = true;
  }

  #settleLate(): void {
    this.#waking = false;
    const late = this.#clock.elapsed() - DEADLINE_SLACK_MS;
    for (const waiting of this.#open) {
      if (waiting.deadline > late) {
        this.#wakeAt(waiting.deadline);
        break;
      }
      this.#settle(waiting, waiting.sent ? this.#sender.unanswered() : this.#sender.shed("deadline"));
    }
    this.#queue = this.#queue.filter((waiting) => this.#open.has(waiting));
  }

  #settle(waiting: Waiting<Item, Result>, result: Result): void {
    this.#open.delete(waiting);
    waiting.resolve(result);
  }

  #schedule(): void {
    if (this.#scheduled || this.#inFlight >= this.#limits.inFlightMax) return;
    this.#scheduled = true;
    // After this turn of the event loop, which still reads requests from other sockets.
    setImmediate(() => {
      this.#scheduled = false;
      void this.#dispatch();
    });
  }

  async #dispatch(): Promise<void> {
    const batch = this.#take();
    if (batch.length === 0) return;
    this.#inFlight += 1;
    if (this.#queue.length > 0) this.#schedule();
    const results = await this.#sender.send(batch);
    this.#inFlight -= 1;
    for (const [index, waiting] of batch.entries()) this.#settle(waiting, results[index] as Result);
    if (this.#queue.length > 0) this.#schedule();
  }

  #take(): Waiting<Item, Result>[] {
    const now = this.#clock.elapsed();
    const batch: Waiting<Item, Result>[] = [];
    let taken = 0;
    for (const waiting of this.#queue) {
      if (batch.length >= this.#limits.batchMax) break;
      taken += 1;
      // Its client has given up; to send it would only delay the others.
      if (waiting.deadline <= now) this.#settle(waiting, this.#sender.shed("deadline"));
      else {
        waiting.sent = true;
        batch.push(waiting);
      }
    }
    this.#queue = this.#queue.slice(taken);
    return batch;
  }
}
