/**
 * Many clients' requests for one shard travel in few calls. A call leaves at once while fewer than `inFlightMax` are
 * under way, else its items go with the next one: batch size follows load, and no timer adds latency.
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
  /** Of the request that it is for, when that is sampled. */
  readonly span: Span | undefined;
}

interface Waiting<Item, Result> extends Outgoing<Item> {
  readonly resolve: (result: Result) => void;
}

/** How the items of a coalescer are sent, or refused. */
export interface Sender<Item, Result> {
  /** Answers one result per item, in order, and never throws. */
  send(batch: readonly Outgoing<Item>[]): Promise<readonly Result[]>;
  /** The result of an item that is not sent. */
  shed(reason: "queue_full" | "deadline"): Result;
}

export class Coalescer<Item, Result> {
  readonly #limits: CoalescerLimits;
  readonly #sender: Sender<Item, Result>;
  readonly #clock: Clock;
  #queue: Waiting<Item, Result>[] = [];
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
      this.#queue.push({ item, deadline, span, resolve });
      this.#schedule();
    });
  }

  #schedule(): void {
    if (this.#scheduled || this.#inFlight >= this.#limits.inFlightMax) return;
    this.#scheduled = true;
    // After this turn of the event loop has read all sockets that had something to say.
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
    for (const [index, waiting] of batch.entries()) waiting.resolve(results[index] as Result);
    if (this.#queue.length > 0) this.#schedule();
  }

  #take(): Waiting<Item, Result>[] {
    const now = this.#clock.elapsed();
    const batch: Waiting<Item, Result>[] = [];
    let taken = 0;
    for (const waiting of this.#queue) {
      if (batch.length >= this.#limits.batchMax) break;
      taken += 1;
      // Nobody waits for it any more; sending it would only delay those who still do.
      if (waiting.deadline <= now) waiting.resolve(this.#sender.shed("deadline"));
      else batch.push(waiting);
    }
    this.#queue = this.#queue.slice(taken);
    return batch;
  }
}
