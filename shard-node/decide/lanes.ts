/**
 * Commands wait here for their batch. A lane runs one batch at a time. Commands that arrive meanwhile form the next batches,
 * so batches grow with the load and no timer adds latency. A free lane takes what waits, from all events in equal shares. But
 * all commands of a slot are with one lane at a time: two lanes would only wait for each other's row locks
 * (npm run bench -- engine). So beside one hot event the other lanes serve the quiet ones.
 *
 * A batch that is full cannot grow by waiting longer. So it is sent as soon as the batch before it holds its locks:
 * PostgreSQL reads the second batch while it decides the first. Sent earlier, it could overtake the batch before it (B8).
 *
 * The booking requests of a slot are in one batch at a time. The next batch would not know that this one failed, and an event's
 * requests keep their order (Q4).
 *
 * Nobody holds up others (docs/decisions/0017-fair-lanes.md):
 * - A user has few commands under way for an event.
 * - Confirm and cancel wait apart from bookings, and come first.
 * - An event whose row somebody else has locked is refused at once, and tried again a moment later.
 */
import type { Clock } from "../../shared/process/clock.ts";
import type { EventId } from "../../shared/domain/ids.ts";
import { invariant } from "../../shared/domain/invariant.ts";
import type { Failure } from "../../shared/domain/outcomes.ts";
import { type Slot, SLOT_COUNT } from "../../shared/domain/slots.ts";
import { FairQueue, type Queued } from "../../shared/process/fair-queue.ts";
import { UnderWay } from "../../shared/process/under-way.ts";
import { type Span, type SpanAttributes, spanForMany } from "../../shared/watch/tracing.ts";
import { type Command, isBookCommand, isRequest, userKeyOf } from "../../shared/domain/commands.ts";
import type { Decided, DecideBatch } from "./decider.ts";

/** Batches of a lane that may be under way at once. Each needs a connection. */
export const BATCHES_PER_LANE_MAX = 2;

/** How long a batch waits for the lock of an event. */
export const LOCK_WAIT_MS = 80;
/** Events that are remembered as locked by somebody else, and for how long when no batch meets them. */
const LOCKED_EVENTS_MAX = 1_000;
const LOCKED_MAX_MS = 10_000;

export interface LaneLimits {
  readonly lanes: number;
  /** Commands decided in one transaction. */
  readonly batchMax: number;
  /** Commands that may wait, for each lane. */
  readonly queueMax: number;
  /** A command that would wait longer is refused. */
  readonly waitMaxMs: number;
  /** Commands of a user for an event that may be under way. */
  readonly perUserMax: number;
}

export interface LaneObserver {
  batchStarted(size: number): void;
  batchEnded(seconds: number): void;
  commandWaited(seconds: number): void;
  shed(reason: "lane_full" | "lane_slow" | "deadline" | "user_busy" | "event_locked"): void;
}

export interface RunOptions {
  /** By the `elapsed()` of this process; the command's own deadline is by its router's. */
  readonly deadline?: number;
  /** The parent of the command's spans, when it is sampled. */
  readonly span?: Span | undefined;
  /** Asked when a batch would take the command; `overloaded` when it says no. */
  readonly mayBegin?: () => boolean;
}

interface Waiting extends Queued {
  readonly command: Command;
  readonly deadline: number;
  readonly mayBegin: () => boolean;
  readonly resolve: (decided: Decided) => void;
  readonly trace: CommandTrace | undefined;
}

/** The spans of a sampled command. */
interface CommandTrace {
  /** The call that brought the command, or its client's request. */
  readonly parent: Span;
  readonly wait: Span;
}

/** What one lane does; undefined when it has nothing to do. */
interface Lane {
  working: Promise<void> | undefined;
}

const NOT_BEGUN: Decided = { result: { outcome: "overloaded" }, snapshot: undefined };
const always = (): boolean => true;

export class Lanes {
  readonly #limits: LaneLimits;
  readonly #decide: DecideBatch;
  readonly #clock: Clock;
  readonly #observer: LaneObserver;
  readonly #lanes: readonly Lane[];
  readonly #settling: FairQueue<Waiting>;
  readonly #booking: FairQueue<Waiting>;
  readonly #users: UnderWay;
  /** Which lane has commands of a slot under way, how many, and how many of them are booking requests. */
  readonly #taken = new Map<Slot, { readonly lane: Lane; commands: number; requests: number }>();
  /** Events whose lock somebody else held, and when, by `elapsed()`, they are tried again. */
  readonly #locked = new Map<EventId, number>();

  constructor(limits: LaneLimits, decide: DecideBatch, clock: Clock, observer: LaneObserver) {
    this.#limits = limits;
    this.#decide = decide;
    this.#clock = clock;
    this.#observer = observer;
    this.#lanes = Array.from({ length: limits.lanes }, () => ({ working: undefined }));
    const places = { max: limits.queueMax * limits.lanes, waitMaxMs: limits.waitMaxMs };
    this.#settling = new FairQueue(places, clock);
    this.#booking = new FairQueue(places, clock);
    this.#users = new UnderWay(limits.perUserMax);
  }

  /** Commands that wait for a batch. */
  get queueLength(): number {
    return this.#settling.length + this.#booking.length;
  }

  /**
   * Always resolves: without room, after a missed deadline and beside somebody else's lock with `overloaded`, and with
   * `rate_limited` beyond a user's bound.
   */
  run(command: Command, options: RunOptions = {}): Promise<Decided> {
    const { deadline = command.deadline, span, mayBegin = always } = options;
    const user = userKeyOf(command);
    if (user !== undefined && !this.#users.enter(user)) return this.#refused("user_busy", "rate_limited");
    const leave = (): void => {
      if (user !== undefined) this.#users.leave(user);
    };
    return new Promise((resolve) => {
      const wait = span?.child("lane wait", "internal", attributesOf(command));
      const refusal = (isBookCommand(command) ? this.#booking : this.#settling).push({
        command,
        line: lineOf(command),
        arrived: this.#clock.elapsed(),
        deadline,
        mayBegin,
        resolve: (decided) => {
          leave();
          resolve(decided);
        },
        trace: span && wait && { parent: span, wait },
      });
      if (refusal === undefined) return this.#wakeFor(command.slot);
      leave();
      wait?.failed(refusal);
      wait?.end();
      return resolve(this.#refused(refusal === "full" ? "lane_full" : "lane_slow"));
    });
  }

  /** Resolves when every accepted command has its result. */
  async drained(): Promise<void> {
    for (const { working } of this.#lanes) await working;
    if (this.#lanes.some(({ working }) => working !== undefined)) await this.drained();
  }

  async #refused(
    reason: Parameters<LaneObserver["shed"]>[0],
    outcome: Failure["outcome"] = "overloaded",
  ): Promise<Decided> {
    this.#observer.shed(reason);
    return { result: { outcome }, snapshot: undefined };
  }

  /** A lane that has commands of the slot under way takes the new one next; else any lane that is free does. */
  #wakeFor(slot: Slot): void {
    if (this.#taken.has(slot)) return;
    const free = this.#lanes.find(({ working }) => working === undefined);
    if (free !== undefined) free.working = this.#work(free);
  }

  async #work(lane: Lane): Promise<void> {
    // The event loop turns once, so that all commands of the call being read are in the first batch.
    await new Promise(setImmediate);
    let before: Promise<void> = Promise.resolve();
    for (;;) {
      let batch = this.#takeBatch(lane);
      if (batch.length === 0) {
        await before;
        batch = this.#takeBatch(lane);
        if (batch.length === 0) break;
      }
      const doubted = this.#doubtedIn(batch);
      // A lock that is not waited for must not be that of this lane's own batch.
      if (doubted !== undefined) await before;
      if (doubted !== undefined || this.queueLength < this.#limits.batchMax) {
        await this.#run(batch, { before, doubted });
        continue;
      }
      const locked = Promise.withResolvers<void>();
      const run = this.#run(batch, { before, locked: locked.resolve });
      await Promise.race([locked.promise, run]);
      // At most BATCHES_PER_LANE_MAX are under way.
      await before;
      before = run;
    }
    lane.working = undefined;
  }

  async #run(
    batch: readonly Waiting[],
    options: Pick<Parameters<DecideBatch>[1], "before" | "locked" | "doubted">,
  ): Promise<void> {
    this.#observer.batchStarted(batch.length);
    const started = this.#clock.elapsed();
    const span = batchSpan(batch);
    const commands = batch.map(({ command }) => command);
    const { decided, lockedEvents } = await this.#decide(commands, {
      ...options,
      lockWaitMs: LOCK_WAIT_MS,
      span,
    });
    span?.end();
    this.#observer.batchEnded((this.#clock.elapsed() - started) / 1000);
    for (const command of commands) this.#giveBack(command);
    if (lockedEvents.length + this.#locked.size > 0) this.#noteLocks(commands, decided, lockedEvents);
    for (const [index, waiting] of batch.entries()) {
      const result = decided[index];
      invariant(result !== undefined, "every command of a batch has a result", { index, size: batch.length });
      waiting.resolve(result);
    }
  }

  /** The next commands for a lane: of each slot in order of arrival. */
  #takeBatch(lane: Lane): Waiting[] {
    const { batchMax } = this.#limits;
    const mayTake = (line: number): boolean => {
      const taken = this.#taken.get(slotOfLine(line));
      if (taken === undefined) return true;
      return taken.lane === lane && (line === slotOfLine(line) || taken.requests === 0);
    };
    const batch: Waiting[] = [];
    const fill = (queue: FairQueue<Waiting>, sizeMax: number): void => {
      while (batch.length < sizeMax) {
        const taken = queue.take(sizeMax - batch.length, mayTake);
        if (taken.length === 0) break;
        for (const waiting of taken) if (this.#isWanted(waiting)) batch.push(waiting);
      }
    };
    // Thousands of cancellations leave half of the places to those who buy.
    fill(this.#settling, Math.max(Math.ceil(batchMax / 2), batchMax - this.#booking.length));
    fill(this.#booking, batchMax);
    for (const { command, arrived } of batch) {
      this.#observer.commandWaited((this.#clock.elapsed() - arrived) / 1000);
      const taken = this.#taken.get(command.slot) ?? { lane, commands: 0, requests: 0 };
      taken.commands += 1;
      if (isRequest(command)) taken.requests += 1;
      this.#taken.set(command.slot, taken);
    }
    return batch;
  }

  /** False for a command that is refused instead: to work on it would delay those who still wait, in vain. */
  #isWanted(waiting: Waiting): boolean {
    const { command, deadline, mayBegin, trace, resolve } = waiting;
    if (!mayBegin()) {
      resolve(NOT_BEGUN);
      return false;
    }
    const now = this.#clock.elapsed();
    const isLocked = isBookCommand(command) && now < (this.#locked.get(command.eventId) ?? 0);
    if (deadline > now && !isLocked) return true;
    const reason = isLocked ? "event_locked" : "deadline";
    trace?.wait.failed(reason);
    trace?.wait.end();
    void this.#refused(reason).then(resolve);
    return false;
  }

  #giveBack(command: Command): void {
    const taken = this.#taken.get(command.slot);
    if (taken === undefined) return;
    taken.commands -= 1;
    if (isRequest(command)) taken.requests -= 1;
    if (taken.commands === 0) this.#taken.delete(command.slot);
  }

  /** The events whose locks the batch must not wait for; undefined when it cannot meet one that somebody else holds. */
  #doubtedIn(batch: readonly Waiting[]): readonly EventId[] | undefined {
    if (this.#locked.size === 0) return undefined;
    // A booking's event is known only to the database.
    const mayMeet = batch.some(({ command }) => !isBookCommand(command) || this.#locked.has(command.eventId));
    return mayMeet ? [...this.#locked.keys()] : undefined;
  }

  #noteLocks(
    commands: readonly Command[],
    decided: readonly Decided[],
    lockedEvents: readonly EventId[],
  ): void {
    const now = this.#clock.elapsed();
    for (const command of commands) if (isBookCommand(command)) this.#locked.delete(command.eventId);
    for (const { result } of decided) if ("booking" in result) this.#locked.delete(result.booking.eventId);
    for (const event of lockedEvents) this.#locked.set(event, now + LOCK_WAIT_MS);
    for (const [event, triedAgainAt] of this.#locked) {
      if (this.#locked.size > LOCKED_EVENTS_MAX || now - triedAgainAt > LOCKED_MAX_MS)
        this.#locked.delete(event);
    }
  }
}

/** Requests wait in a line of their own, beside the commands of their slot that somebody waits for. */
function lineOf(command: Command): number {
  return isRequest(command) ? SLOT_COUNT + command.slot : command.slot;
}

function slotOfLine(line: number): Slot {
  return (line % SLOT_COUNT) as Slot;
}

/** A batch's span is part of the first sampled command's trace, and linked with all sampled commands. */
function batchSpan(batch: readonly Waiting[]): Span | undefined {
  const traces = batch.flatMap(({ trace }) => trace ?? []);
  const [first] = traces;
  if (first === undefined) return undefined;
  const waits = traces.map(({ wait }) => wait);
  const span = spanForMany(first.parent, waits, ["batch", "internal", { "onsale.batch.size": batch.length }]);
  for (const wait of waits) wait.end();
  return span;
}

function attributesOf(command: Command): SpanAttributes {
  const kind = { "onsale.command.kind": command.kind };
  return isBookCommand(command) ? { ...kind, "onsale.event.id": command.eventId } : kind;
}
