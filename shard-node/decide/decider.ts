/**
 * Gives every command of a batch an honest answer, whatever happens to the database. A batch that met a fault is tried
 * once more. A lost connection leaves a commit in doubt; the second try settles the doubt, because each command carries its
 * idempotency key and each booking its id.
 */
import { DatabaseError, isRefusedForContent, LOCK_NOT_AVAILABLE } from "../../shared/database/faults.ts";
import { afterLostTry, type CommandResult, type Failure } from "../../shared/domain/outcomes.ts";
import { type Command, isBookCommand } from "../../shared/domain/commands.ts";
import type { Snapshot } from "../../shared/domain/events.ts";
import { invariant } from "../../shared/domain/invariant.ts";
import type { Log } from "../../shared/process/log.ts";
import { Outage } from "../../shared/process/outage.ts";
import type { EventId } from "../../shared/domain/ids.ts";
import type { DecideOptions, FreshIds } from "../store/batch.ts";
import type { BookingStore } from "../store/booking-store.ts";

const UNKNOWN: Failure = { outcome: "outcome_unknown" };

/** The result of one command, and its event as the batch left it. */
export interface Decided {
  readonly result: CommandResult;
  readonly snapshot: Snapshot | undefined;
  /** Whoever has followed the log to here knows the booking in `result`. */
  readonly position?: number | undefined;
}

export interface DecidedBatch {
  /** One per command, in order. */
  readonly decided: readonly Decided[];
  /** Events whose locks somebody else holds. Their commands are `overloaded`, and nothing was decided about them. */
  readonly lockedEvents: readonly EventId[];
}

export interface BatchOptions extends Omit<DecideOptions, "at" | "waits"> {
  /** Resolves when the lane's batch before this one has ended. That batch may hold the same locks. */
  readonly before?: Promise<void> | undefined;
}

/** Decides a batch. Never throws. */
export type DecideBatch = (commands: readonly Command[], options: BatchOptions) => Promise<DecidedBatch>;

export interface DeciderHooks {
  /** Called after each commit, with the events of the batch. */
  committed(snapshots: readonly Snapshot[]): void;
  lockWaited(seconds: number): void;
}

export class Decider {
  readonly #store: BookingStore;
  readonly #hooks: DeciderHooks;
  readonly #log: Log;
  readonly #batches: Outage;

  constructor(store: BookingStore, hooks: DeciderHooks, log: Log) {
    this.#store = store;
    this.#hooks = hooks;
    this.#log = log;
    this.#batches = new Outage(log, "deciding batches");
  }

  /** Decides a batch (DecideBatch). */
  async decide(commands: readonly Command[], options: BatchOptions = {}): Promise<DecidedBatch> {
    return this.#tryTwice(commands, this.#store.freshIdsFor(commands), options);
  }

  async #tryTwice(
    commands: readonly Command[],
    ids: FreshIds,
    { before, ...options }: BatchOptions,
  ): Promise<DecidedBatch> {
    const { span } = options;
    let waits = true;
    let inDoubt = false;
    let mayRunLater = false;
    for (let attempt = 1; ; attempt += 1) {
      try {
        const batch = await this.#store.decide(commands, ids, { ...options, waits });
        const { decisions, snapshots, position, lockedEvents, lockWaitSeconds } = batch;
        invariant(decisions.length === commands.length, "every command of a batch is decided", {
          commands: commands.length,
          decisions: decisions.length,
        });
        this.#batches.worked();
        this.#hooks.lockWaited(lockWaitSeconds);
        span?.set({ "onsale.batch.lock_wait_seconds": lockWaitSeconds });
        this.#hooks.committed(snapshots);
        const byEvent = new Map(snapshots.map((snapshot) => [snapshot.event.id, snapshot]));
        const decided = decisions.map((result, index) => {
          const command = commands[index];
          const eventId =
            "booking" in result
              ? result.booking.eventId
              : command && isBookCommand(command)
                ? command.eventId
                : undefined;
          return {
            result: mayRunLater ? afterLostTry(result) : result,
            snapshot: eventId && byEvent.get(eventId),
            position,
          };
        });
        return { decided, lockedEvents };
      } catch (error) {
        if (isRefusedForContent(error)) return this.#isolate(commands, ids, options, error);
        if (waits && error instanceof DatabaseError && error.sqlState === LOCK_NOT_AVAILABLE) {
          // Nothing was done. One event is slow, and the others go on without it.
          waits = false;
          attempt -= 1;
          await before;
          continue;
        }
        inDoubt ||= error instanceof DatabaseError && error.kind === "lost";
        // If PostgreSQL sent an error, its process is gone. Without one, it may still be running the batch.
        mayRunLater ||=
          error instanceof DatabaseError && error.kind === "lost" && error.sqlState === undefined;
        if (attempt < 2 && error instanceof DatabaseError) continue;
        if (error instanceof DatabaseError) this.#batches.failed(error, span?.traceId);
        else
          this.#log.error(
            { err: error, commands: commands.length, traceId: span?.traceId },
            "a batch could not be decided",
          );
        // After any other error nothing is known: the batch may have been committed (F8).
        const failure = inDoubt || !(error instanceof DatabaseError) ? UNKNOWN : failureOf(error);
        span?.failed(failure.outcome);
        return { decided: commands.map(() => ({ result: failure, snapshot: undefined })), lockedEvents: [] };
      }
    }
  }

  /** Decides each command alone, so that the one that PostgreSQL will not store does not spoil the others. */
  async #isolate(
    commands: readonly Command[],
    ids: FreshIds,
    options: Omit<BatchOptions, "before">,
    error: unknown,
  ): Promise<DecidedBatch> {
    if (commands.length === 1) {
      const traceId = options.span?.traceId;
      this.#log.error({ err: error, traceId }, "PostgreSQL refused a command for its content");
      return { decided: [{ result: { outcome: "internal" }, snapshot: undefined }], lockedEvents: [] };
    }
    const decided: Decided[] = [];
    const lockedEvents: EventId[] = [];
    let next = 0;
    for (const command of commands) {
      const id = isBookCommand(command) ? ids[next++] : undefined;
      const alone = await this.#tryTwice([command], id === undefined ? [] : [id], {
        ...options,
        locked: undefined,
      });
      decided.push(...alone.decided);
      lockedEvents.push(...alone.lockedEvents);
    }
    return { decided, lockedEvents };
  }
}

/** What a router is told about a fault of the database. */
export function failureOf(error: DatabaseError): Failure {
  switch (error.kind) {
    case "busy":
      return { outcome: "overloaded" };
    case "lost":
      return { outcome: "outcome_unknown" };
    case "refused":
      // Another transaction held the lock of an event for too long. The event is slow; its shard is not away.
      return { outcome: error.sqlState === LOCK_NOT_AVAILABLE ? "overloaded" : "shard_unavailable" };
    case "unreachable":
      return { outcome: "shard_unavailable" };
  }
}
