/**
 * Commands wait here for their batch. A lane runs one batch at a time. Commands that arrive meanwhile form the next batch,
 * so batches grow with the load and no timer adds latency. All commands of a slot use the same lane: two lanes would only
 * wait for each other's row locks (npm run bench -- engine).
 *
 * A batch that is full cannot grow by waiting longer. So it is sent as soon as the batch before it holds its locks:
 * PostgreSQL reads the second batch while it decides the first. Sent earlier, it could overtake the batch before it (B8).
 *
 * Everything is bounded: commands of a batch, commands that wait, and how long each may wait.
 */
import type { Clock } from "../../shared/process/clock.ts";
import { invariant } from "../../shared/domain/invariant.ts";
import { type Span, type SpanAttributes, spanForMany } from "../../shared/watch/tracing.ts";
import { type Command, isBookCommand } from "../../shared/domain/commands.ts";
import type { Decided } from "./decider.ts";

/** Batches of a lane that may be under way at once. Each needs a connection. */
export const BATCHES_PER_LANE_MAX = 2;

export interface LaneLimits {
  readonly lanes: number;
  /** Commands decided in one transaction. */
  readonly batchMax: number;
  /** Commands that may wait in one lane; one more is refused. */
  readonly queueMax: number;
}

export interface LaneObserver {
  batchStarted(size: number): void;
  batchEnded(seconds: number): void;
  commandWaited(seconds: number): void;
  shed(reason: "lane_full" | "deadline"): void;
}

/**
 * Decides a batch: one result per command, in order. Never throws. Calls `locked` when no later batch can be decided
 * before this one. `span` is the batch's span, when one of its commands is sampled.
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

/** The spans of a sampled command. */
interface CommandTrace {
  /** The call that brought the command, or its client's request. */
  readonly parent: Span;
  readonly wait: Span;
}

export class Lanes {
  readonly #lanes: Lane[];

  constructor(limits: LaneLimits, decide: DecideBatch, clock: Clock, observer: LaneObserver) {
    this.#lanes = Array.from({ length: limits.lanes }, () => new Lane(limits, decide, clock, observer));
  }

  /** Commands that wait for a batch, in all lanes. */
  get queueLength(): number {
    return this.#lanes.reduce((sum, lane) => sum + lane.queueLength, 0);
  }

  /**
   * Always resolves: a full lane and a missed deadline give `overloaded`. `deadline` is by the `elapsed()` of this process;
   * the command's own deadline is by its router's. `span` is the parent of the command's spans, when it is sampled.
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
    // The event loop turns once, so that all commands of the call being read are in the first batch.
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
      // At most BATCHES_PER_LANE_MAX are under way.
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

  /** The next commands in order of arrival. A user's second booking command for an event stays for a later batch. */
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
        // Nobody waits for this answer any more. Work on it would delay those who still wait.
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
