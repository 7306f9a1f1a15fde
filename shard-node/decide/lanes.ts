/**
 * Commands wait here for their batch. A lane runs one batch at a time, and what arrives meanwhile is the next batch, so
 * batch size follows load and no timer adds latency. All commands of a slot use the same lane: two lanes would only wait
 * for each other's row locks (npm run bench -- engine).
 *
 * When a full batch waits already, it could not grow by waiting longer. So it is sent as soon as the one before it holds its
 * locks: PostgreSQL reads it meanwhile, and decides it the moment those locks are free. Never earlier, or it might get them
 * first (B8).
 *
 * Everything is bounded: commands per batch, commands waiting, and how long each may wait.
 */
import type { Clock } from "../../shared/process/clock.ts";
import { invariant } from "../../shared/domain/invariant.ts";
import { type Span, type SpanAttributes, spanForMany } from "../../shared/watch/tracing.ts";
import { type Command, isBookCommand } from "../../shared/domain/commands.ts";
import type { Decided } from "./decider.ts";

/** Batches of a lane that may be under way at once, and so the connections that it needs. */
export const BATCHES_PER_LANE_MAX = 2;

export interface LaneLimits {
  readonly lanes: number;
  /** Commands decided in one transaction. */
  readonly batchMax: number;
  /** Commands waiting in one lane; one more is refused. */
  readonly queueMax: number;
}

export interface LaneObserver {
  batchStarted(size: number): void;
  batchEnded(seconds: number): void;
  commandWaited(seconds: number): void;
  shed(reason: "lane_full" | "deadline"): void;
}

/**
 * Decides a batch; answers one result per command, in order, and never throws. Calls `locked` when no later batch can be
 * decided before this one any more. `span` is the batch's, when one of its commands is sampled.
 */
export type DecideBatch = (
  commands: readonly Command[],
  locked?: () => void,
  span?: Span,
) => Promise<readonly Decided[]>;

const OVERLOADED: Decided = { result: { outcome: "overloaded" }, snapshot: undefined };

interface Waiting {
  readonly command: Command;
  readonly arrived: number;
  readonly deadline: number;
  readonly resolve: (decided: Decided) => void;
  readonly trace: CommandTrace | undefined;
}

/** Of a command that is sampled. */
interface CommandTrace {
  /** The work that the command is part of. */
  readonly parent: Span;
  readonly wait: Span;
}

export class Lanes {
  readonly #lanes: Lane[];

  constructor(limits: LaneLimits, decide: DecideBatch, clock: Clock, observer: LaneObserver) {
    this.#lanes = Array.from({ length: limits.lanes }, () => new Lane(limits, decide, clock, observer));
  }

  /** Commands that wait for a batch, over all lanes. */
  get queueLength(): number {
    return this.#lanes.reduce((sum, lane) => sum + lane.queueLength, 0);
  }

  /**
   * Always resolves with the command's result: a full lane and a missed deadline are `overloaded`. `deadline` is by this
   * process's `elapsed()`; the command's own is by its router's. `span` is the work that the command is part of, when that is sampled.
   */
  run(command: Command, deadline = command.deadline, span?: Span): Promise<Decided> {
    const lane = this.#lanes[command.slot % this.#lanes.length] as Lane;
    return lane.run(command, deadline, span);
  }

  /** Resolves when every accepted command has its result. */
  async drained(): Promise<void> {
    await Promise.all(this.#lanes.map(async (lane) => lane.drained()));
  }
}

class Lane {
  readonly #limits: LaneLimits;
  readonly #decide: DecideBatch;
  readonly #clock: Clock;
  readonly #observer: LaneObserver;
  #queue: Waiting[] = [];
  #working: Promise<void> | undefined;

  constructor(limits: LaneLimits, decide: DecideBatch, clock: Clock, observer: LaneObserver) {
    this.#limits = limits;
    this.#decide = decide;
    this.#clock = clock;
    this.#observer = observer;
  }

  get queueLength(): number {
    return this.#queue.length;
  }

  run(command: Command, deadline: number, span?: Span): Promise<Decided> {
    if (this.#queue.length >= this.#limits.queueMax) {
      this.#observer.shed("lane_full");
      return Promise.resolve(OVERLOADED);
    }
    return new Promise((resolve) => {
      const arrived = this.#clock.elapsed();
      const trace = span && {
        parent: span,
        wait: span.child("lane wait", "internal", attributesOf(command)),
      };
      this.#queue.push({ command, arrived, deadline, resolve, trace });
      this.#working ??= this.#work();
    });
  }

  async drained(): Promise<void> {
    await this.#working;
  }

  async #work(): Promise<void> {
    // One turn of the event loop, so that all commands of the request being read are in the first batch.
    await new Promise(setImmediate);
    let before: Promise<void> = Promise.resolve();
    for (;;) {
      if (this.#queue.length === 0) await before;
      if (this.#queue.length === 0) break;
      const batch = this.#takeBatch();
      if (batch.length === 0) continue;
      if (this.#queue.length < this.#limits.batchMax) {
        await this.#run(batch);
        continue;
      }
      const locked = Promise.withResolvers<void>();
      const run = this.#run(batch, locked.resolve);
      await Promise.race([locked.promise, run]);
      // At most two are under way.
      await before;
      before = run;
    }
    this.#working = undefined;
  }

  async #run(batch: readonly Waiting[], locked?: () => void): Promise<void> {
    this.#observer.batchStarted(batch.length);
    const started = this.#clock.elapsed();
    const span = batchSpan(batch);
    const results = await this.#decide(
      batch.map((waiting) => waiting.command),
      locked,
      span,
    );
    span?.end();
    this.#observer.batchEnded((this.#clock.elapsed() - started) / 1000);
    for (const [index, waiting] of batch.entries()) {
      const decided = results[index];
      invariant(decided !== undefined, "every command of a batch has a result", {
        index,
        size: batch.length,
      });
      waiting.resolve(decided);
    }
  }

  /** The next commands in order of arrival; a user's second command for an event stays for the batch after this one. */
  #takeBatch(): Waiting[] {
    const now = this.#clock.elapsed();
    const batch: Waiting[] = [];
    const stay: Waiting[] = [];
    const buyers = new Set<string>();
    let taken = 0;
    for (const waiting of this.#queue) {
      if (batch.length >= this.#limits.batchMax) break;
      taken += 1;
      const { command } = waiting;
      const buyer = isBookCommand(command) ? `${command.eventId} ${command.userId}` : undefined;
      if (waiting.deadline <= now) {
        // Nobody waits for the answer any more: work on it would only delay those who still do.
        this.#observer.shed("deadline");
        waiting.trace?.wait.failed("deadline");
        waiting.trace?.wait.end();
        waiting.resolve(OVERLOADED);
      } else if (buyer !== undefined && buyers.has(buyer)) {
        stay.push(waiting);
      } else {
        if (buyer !== undefined) buyers.add(buyer);
        this.#observer.commandWaited((now - waiting.arrived) / 1000);
        batch.push(waiting);
      }
    }
    this.#queue = stay.concat(this.#queue.slice(taken));
    return batch;
  }
}

/** A batch is part of the first trace that it serves, and linked with the waiting commands of all of them. */
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
