/**
 * Carries many clients' requests for one shard in few calls. While fewer than `inFlightMax` calls are under way, a request
 * leaves at once; else it waits for the next call. So the size of a call follows the load, and no timer adds latency.
 *
 * Each request is answered as soon as its own result comes. The first result of a call frees its place for the next call, so
 * one slow request in a call delays nobody else; neither does a call without any result after PLACE_MAX_MS. But each call of
 * an overload stays open for long. So the more are open, the longer the next one gathers requests: else all that may be open
 * would be in a moment, and keep everybody out.
 */
import type { Clock } from "../../shared/process/clock.ts";
import { FairQueue, type Queued } from "../../shared/process/fair-queue.ts";
import type { Slot } from "../../shared/domain/slots.ts";
import type { Span } from "../../shared/watch/tracing.ts";

export interface CoalescerLimits {
  readonly batchMax: number;
  /** Calls without a first result. */
  readonly inFlightMax: number;
  /** Items waiting for a call. */
  readonly queueMax: number;
  /** An item that would wait longer is refused. */
  readonly waitMaxMs: number;
}

/** Calls of a coalescer that may be open, for each of `inFlightMax`: most of them wait for nothing but slow results. */
export const OPEN_CALLS_PER_PLACE = 32;
/** How long a call gathers requests when nearly all that may be open are. */
export const GATHER_MAX_MS = 20;
/** How long a call without any result keeps its place. */
export const PLACE_MAX_MS = 20;

export interface Outgoing<Item> {
  readonly item: Item;
  /** By the clock's `elapsed()`. */
  readonly deadline: number;
  /** The span of the item's request, if that is sampled. */
  readonly span: Span | undefined;
}

interface Waiting<Item, Result> extends Outgoing<Item>, Queued {
  readonly resolve: (result: Result) => void;
  sent: boolean;
}

/** How long an item outlives its deadline, so that a node's own answer at the deadline still arrives. */
export const DEADLINE_SLACK_MS = 200;

/** Sends the items of a coalescer, or refuses them. */
export interface Sender<Item, Result> {
  /** Gives each item of the batch its result, by position, and resolves when all have one. Never throws. */
  send(batch: readonly Outgoing<Item>[], give: (position: number, result: Result) => void): Promise<void>;
  /** The result of an item that is not sent. */
  shed(reason: "full" | "slow" | "deadline"): Result;
  /** The result of an item that was sent and has no answer at its deadline. */
  unanswered(): Result;
}

export class Coalescer<Item, Result> {
  readonly #limits: CoalescerLimits;
  readonly #sender: Sender<Item, Result>;
  readonly #clock: Clock;
  readonly #queue: FairQueue<Waiting<Item, Result>>;
  /** Items without a result, in order of arrival. Nearly all have the same time, so that is the order of their deadlines. */
  readonly #open = new Set<Waiting<Item, Result>>();
  #latestDeadline = 0;
  #waking = false;
  #inFlight = 0;
  #openCalls = 0;
  #scheduled = false;

  constructor(limits: CoalescerLimits, sender: Sender<Item, Result>, clock: Clock) {
    this.#limits = limits;
    this.#sender = sender;
    this.#clock = clock;
    this.#queue = new FairQueue({ max: limits.queueMax, waitMaxMs: limits.waitMaxMs }, clock);
  }

  /** Slots get equal shares of the calls. */
  run(slot: Slot, item: Item, deadline: number, span?: Span): Promise<Result> {
    return new Promise((resolve) => {
      const arrived = this.#clock.elapsed();
      const waiting = { line: slot, arrived, item, deadline, span, resolve, sent: false };
      const refusal = this.#queue.push(waiting);
      if (refusal !== undefined) return resolve(this.#sender.shed(refusal));
      this.#open.add(waiting);
      // One whose client waited for something else before has less time left than those before it.
      if (deadline < this.#latestDeadline) this.#settleAtDeadlineOf(waiting);
      else this.#latestDeadline = deadline;
      if (!this.#waking) this.#wakeAt(deadline);
      return this.#schedule();
    });
  }

  /** Settles each item soon after its own deadline, however long its call goes on. */
  #wakeAt(deadline: number): void {
    this.#after(deadline, () => this.#settleLate());
    this.#waking = true;
  }

  #settleAtDeadlineOf(waiting: Waiting<Item, Result>): void {
    this.#after(waiting.deadline, () => {
      if (!this.#open.has(waiting)) return;
      this.#settle(waiting, this.#lateResultOf(waiting));
      this.#queue.keep((other) => other !== waiting);
    });
  }

  #after(deadline: number, run: () => void): void {
    // A millisecond more, because a timer may fire a little early.
    const pause = Math.max(1, deadline + DEADLINE_SLACK_MS + 1 - this.#clock.elapsed());
    setTimeout(run, pause).unref();
  }

  #settleLate(): void {
    this.#waking = false;
    const late = this.#clock.elapsed() - DEADLINE_SLACK_MS;
    for (const waiting of this.#open) {
      if (waiting.deadline > late) {
        this.#wakeAt(waiting.deadline);
        break;
      }
      this.#settle(waiting, this.#lateResultOf(waiting));
    }
    this.#queue.keep((waiting) => this.#open.has(waiting));
  }

  #lateResultOf({ sent }: Waiting<Item, Result>): Result {
    return sent ? this.#sender.unanswered() : this.#sender.shed("deadline");
  }

  #settle(waiting: Waiting<Item, Result>, result: Result): void {
    this.#open.delete(waiting);
    waiting.resolve(result);
  }

  #schedule(): void {
    const { inFlightMax } = this.#limits;
    if (this.#scheduled || this.#queue.length === 0 || this.#inFlight >= inFlightMax) return;
    const openMax = inFlightMax * OPEN_CALLS_PER_PLACE;
    if (this.#openCalls >= openMax) return;
    this.#scheduled = true;
    const dispatch = (): void => {
      this.#scheduled = false;
      void this.#dispatch();
    };
    const gatherMs = Math.floor((GATHER_MAX_MS * this.#openCalls) / openMax);
    // At the least after this turn of the event loop, which still reads requests from other sockets.
    if (gatherMs === 0) setImmediate(dispatch);
    else setTimeout(dispatch, gatherMs);
  }

  async #dispatch(): Promise<void> {
    const batch = this.#take();
    if (batch.length === 0) return;
    this.#inFlight += 1;
    this.#openCalls += 1;
    this.#schedule();
    let hasPlace = true;
    const leavePlace = (): void => {
      if (!hasPlace) return;
      hasPlace = false;
      clearTimeout(timer);
      this.#inFlight -= 1;
      this.#schedule();
    };
    const timer = setTimeout(leavePlace, PLACE_MAX_MS);
    await this.#sender.send(batch, (position, result) => {
      leavePlace();
      this.#settle(batch[position] as Waiting<Item, Result>, result);
    });
    leavePlace();
    this.#openCalls -= 1;
    this.#schedule();
  }

  #take(): Waiting<Item, Result>[] {
    const { batchMax } = this.#limits;
    const now = this.#clock.elapsed();
    const batch: Waiting<Item, Result>[] = [];
    while (batch.length < batchMax) {
      const taken = this.#queue.take(batchMax - batch.length);
      if (taken.length === 0) break;
      for (const waiting of taken) {
        // Its client has given up; to send it would only delay the others.
        if (waiting.deadline <= now) this.#settle(waiting, this.#sender.shed("deadline"));
        else {
          waiting.sent = true;
          batch.push(waiting);
        }
      }
    }
    return batch;
  }
}
