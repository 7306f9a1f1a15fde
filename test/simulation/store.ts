/**
 * A shard's database as nodes see it, with the reference model inside: commits one after the other, under locks of rows, each
 * after a while. It remembers every state that it ever had.
 */
import { DatabaseError, LOCK_NOT_AVAILABLE } from "../../shared/database/faults.ts";
import { type Command, isBookCommand, isRequest } from "../../shared/domain/commands.ts";
import type { Event, Snapshot } from "../../shared/domain/events.ts";
import {
  type BookingId,
  type EventId,
  type ShardId,
  slotOfBooking,
  timeOf,
} from "../../shared/domain/ids.ts";
import { type Slot, slotOf } from "../../shared/domain/slots.ts";
import type { Decision } from "../../shared/domain/outcomes.ts";
import type { RequestState } from "../../shared/domain/requests.ts";
import type { Booking } from "../../shared/domain/bookings.ts";
import type { Change } from "../../shared/domain/changes.ts";
import type {
  ChangeEventRequest,
  CopyPage,
  CopyRequest,
  CreateEventRequest,
  EventResult,
  ReadResult,
} from "../../shared/wire/rpc.ts";
import type { BatchDecision, DecideOptions, FreshIds } from "../../shard-node/store/batch.ts";
import { BookingStore } from "../../shard-node/store/booking-store.ts";
import type { ChangesRead } from "../../shard-node/store/change-log.ts";
import * as model from "../components/model.ts";
import { type Process, self, world } from "./world.ts";

const STATEMENT_TIMEOUT_MS = 4_000;
const LOCK_TIMEOUT_MS = 2_000;
/** How much longer than the database a node waits for the end of a statement. */
const SLACK_MS = 1_000;

/** Rows of a page that is copied. Few, so that short runs have several pages. */
const COPY_PAGE_MAX = 3;

/** A booking request that is older lapses. Short, so that short runs meet it. */
const REQUEST_MAX_AGE_MS = 3_000;

/** What is wrong with a database. Probabilities are from 0 to 1. */
export interface DatabaseTrouble {
  down?: boolean;
  /** A connection breaks before the statement arrives, after its commit, or while the statement still runs on. */
  breaks?: number;
  slowMs?: number;
}

export interface Commit {
  readonly at: number;
  readonly before: model.State;
  readonly state: model.State;
  readonly decided: readonly (readonly [Command, Decision])[];
}

export interface StoreObserver {
  /** A node gives the database a batch; the function is called when the batch is over for the node. */
  batch(
    node: Process,
    commands: readonly Command[],
  ): { readonly locked: () => void; readonly over: () => void };
  committed(shard: SimulatedShard, commit: Commit): void;
  /** A shard has written down what became of a booking request. */
  settled(shard: SimulatedShard, id: BookingId, decision: Decision): void;
}

interface Locking {
  /** Called when the statement has its locks. */
  readonly locked?: () => void;
  readonly lockWaitMs?: number | undefined;
  readonly timeoutMs?: number;
  /** Whether the statement goes on without this row when somebody else has locked it. */
  readonly passesOver?: (row: EventId) => boolean;
}

interface LocksUnderWay extends Required<Pick<Locking, "passesOver">> {
  readonly lockWaitMs: number;
  readonly have: EventId[];
  readonly passedOver: Set<EventId>;
}

interface Lock {
  readonly waiting: (() => void)[];
}

export class SimulatedShard {
  readonly id: ShardId;
  readonly process: Process;
  readonly owned = new Set<Slot>();
  readonly commits: Commit[] = [];
  readonly log: Change[] = [];
  readonly trouble: DatabaseTrouble = {};
  readonly #observer: StoreObserver;
  readonly #locks = new Map<EventId, Lock>();
  /** What became of booking requests. */
  readonly outcomes = new Map<BookingId, Decision>();
  state: model.State = { events: new Map(), bookings: new Map(), owns: (slot) => this.owned.has(slot) };

  constructor(id: ShardId, process: Process, observer: StoreObserver) {
    this.id = id;
    this.process = process;
    this.#observer = observer;
  }

  /**
   * A statement of the node that runs now, about some rows. `work` is what the database does in one step, without the rows that
   * it may pass over and that somebody else has locked. The result is what the node gets to know of it. Throws DatabaseError.
   */
  async statement<T>(
    rows: readonly EventId[],
    work: (passedOver: ReadonlySet<EventId>) => T,
    {
      locked,
      lockWaitMs = LOCK_TIMEOUT_MS,
      timeoutMs = STATEMENT_TIMEOUT_MS,
      passesOver = () => false,
    }: Locking = {},
  ): Promise<T> {
    const have: EventId[] = [];
    const passedOver = new Set<EventId>();
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const db = world();
    const node = self();
    const back = (settle: () => void): void => void db.after(db.between(0.1, 0.8), settle, node);
    const lost = (sqlState?: string): void =>
      reject(new DatabaseError("lost", "the connection broke", sqlState === undefined ? {} : { sqlState }));
    if (this.trouble.down === true) {
      back(() => reject(new DatabaseError("unreachable", "the database is down")));
      return promise;
    }
    const silence = db.after(timeoutMs + SLACK_MS, () => lost(), node);
    const breaks = db.chance(this.trouble.breaks ?? 0);
    const how = db.pick(["before", "after", "meanwhile", "refused", "unreachable"] as const);
    if (breaks) db.note(`a connection to ${this.id} breaks: ${how}`);
    if (breaks && how === "before") back(() => lost());
    if (breaks && how === "refused") back(() => lost("57P01"));
    if (breaks && how === "unreachable")
      back(() => reject(new DatabaseError("unreachable", "no connection was to be had")));
    if (breaks && how === "meanwhile") back(() => lost());
    if (breaks && how !== "after" && how !== "meanwhile")
      return promise.finally(() => (silence.cancelled = true));
    const late = breaks && how === "meanwhile" ? db.between(1, 2_000) : 0;
    const took = db.between(0.5, 6) + db.between(0, this.trouble.slowMs ?? 0);
    const answer = (settle: () => void): void => {
      silence.cancelled = true;
      if (breaks) back(() => lost());
      else back(settle);
    };
    const begin = (): void =>
      this.#withLocks(
        rows,
        { have, passedOver, lockWaitMs, passesOver },
        () => {
          if (locked !== undefined && !breaks) back(locked);
          db.after(Math.min(took, timeoutMs), () => {
            this.#release(have);
            if (took >= timeoutMs)
              return answer(() => reject(refused("57014", "the statement took too long")));
            const result = work(passedOver);
            return answer(() => resolve(result));
          });
        },
        () => answer(() => reject(refused(LOCK_NOT_AVAILABLE, "a row was locked for too long"))),
      );
    db.after(late + db.between(0.1, 0.8), begin, this.process);
    return promise.finally(() => (silence.cancelled = true));
  }

  /** Keeps somebody else's lock on an event's row. */
  lockFor(event: EventId, ms: number): void {
    const have: EventId[] = [];
    this.#withLocks(
      [event],
      { have, passedOver: new Set(), lockWaitMs: LOCK_TIMEOUT_MS, passesOver: () => false },
      () => void world().after(ms, () => this.#release(have), this.process),
      () => undefined,
    );
  }

  /** Applies a change, and remembers it. */
  commit(state: model.State, decided: Commit["decided"] = []): void {
    const commit = { at: world().now, before: this.state, state, decided };
    this.state = state;
    this.commits.push(commit);
    const change = model.changeBetween(commit.before, state);
    if (change !== undefined)
      this.log.push({ position: this.commits.length, at: new Date(commit.at).toISOString(), ...change });
    this.#observer.committed(this, commit);
  }

  /** As request_outcomes keeps it. */
  settle(id: BookingId, decision: Decision): void {
    this.outcomes.set(id, decision);
    this.#observer.settled(this, id, decision);
  }

  /** What is known of a request; one that is too old lapses by this. */
  outcomeOf(id: BookingId): Decision | undefined {
    const known = this.outcomes.get(id);
    if (known !== undefined) return known;
    const isDue = timeOf(id) < Date.parse(world().time) - REQUEST_MAX_AGE_MS;
    if (!isDue || !this.owned.has(slotOfBooking(id)) || this.state.bookings.has(id)) return undefined;
    this.settle(id, { outcome: "lapsed" });
    return { outcome: "lapsed" };
  }

  observeBatch(commands: readonly Command[]): ReturnType<StoreObserver["batch"]> {
    return this.#observer.batch(self(), commands);
  }

  /** The events of commands, in the order in which rows are locked. */
  eventsOf(commands: readonly Command[]): EventId[] {
    const found = commands.flatMap((command) =>
      isBookCommand(command) ? command.eventId : (this.state.bookings.get(command.bookingId)?.eventId ?? []),
    );
    return [...new Set(found)].toSorted();
  }

  /** Locks rows one after the other, then calls `done`; or lets go of all and calls `gaveUp`. */
  #withLocks(rows: readonly EventId[], locking: LocksUnderWay, done: () => void, gaveUp: () => void): void {
    const [row, ...others] = rows;
    if (row === undefined) return done();
    const { have, passedOver, lockWaitMs, passesOver } = locking;
    const next = (): void => {
      have.push(row);
      this.#withLocks(others, locking, done, gaveUp);
    };
    const lock = this.#locks.get(row);
    if (lock === undefined) {
      this.#locks.set(row, { waiting: [] });
      return next();
    }
    if (passesOver(row)) {
      passedOver.add(row);
      return this.#withLocks(others, locking, done, gaveUp);
    }
    const timeout = world().after(
      lockWaitMs,
      () => {
        lock.waiting.splice(lock.waiting.indexOf(granted), 1);
        this.#release(have);
        gaveUp();
      },
      this.process,
    );
    const granted = (): void => {
      timeout.cancelled = true;
      next();
    };
    lock.waiting.push(granted);
    return undefined;
  }

  #release(rows: readonly EventId[]): void {
    for (const row of rows) {
      const next = this.#locks.get(row)?.waiting.shift();
      if (next === undefined) this.#locks.delete(row);
      else next();
    }
  }
}

function refused(sqlState: string, message: string): DatabaseError {
  return new DatabaseError("refused", message, { sqlState });
}

/** What a node has in place of its BookingStore. Ids of new bookings are the product's own. */
export class SimulatedStore extends BookingStore {
  readonly #shard: SimulatedShard;

  constructor(shard: SimulatedShard) {
    super(undefined as never, () => Date.now());
    this.#shard = shard;
  }

  override async decide(
    commands: readonly Command[],
    ids: FreshIds,
    { locked, lockWaitMs, doubted = [], waits = true }: DecideOptions = {},
  ): Promise<BatchDecision> {
    const shard = this.#shard;
    const batch = shard.observeBatch(commands);
    const rows = shard.eventsOf(commands);
    const bookings = commands.filter(isBookCommand);
    const work = (lockedOut: ReadonlySet<EventId>): BatchDecision => {
      // A request that has its outcome already is not decided again (decide_requests()).
      const known = new Map<Command, Decision>();
      for (const command of commands) {
        const outcome = isRequest(command) ? shard.outcomeOf(command.requestId) : undefined;
        if (outcome !== undefined) known.set(command, outcome);
      }
      const mayDecide = (command: Command): boolean =>
        !known.has(command) && shard.eventsOf([command]).every((event) => !lockedOut.has(event));
      const free = commands.filter(mayDecide);
      const freeIds = ids.filter((_, index) => mayDecide(bookings[index] as Command));
      const { state, decisions, snapshots } = model.decideBatch(shard.state, free, freeIds, world().time);
      const decided = new Map(free.map((command, index) => [command, decisions[index] as Decision]));
      shard.commit(state, [...decided]);
      for (const [command, decision] of decided)
        if (isRequest(command) && decision.outcome !== "wrong_shard")
          shard.settle(command.requestId, decision);
      return {
        decisions: commands.map(
          (command) => known.get(command) ?? decided.get(command) ?? { outcome: "overloaded" },
        ),
        lockedEvents: [...lockedOut],
        snapshots,
        position: shard.log.at(-1)?.position ?? 0,
        lockWaitSeconds: 0,
      };
    };
    const locking = {
      lockWaitMs,
      passesOver: (row: EventId) => !waits || doubted.includes(row),
      locked() {
        batch.locked();
        locked?.();
      },
    };
    return shard.statement(rows, work, locking).finally(batch.over);
  }

  override async expireDueHolds(eventsMax: number): Promise<readonly Snapshot[]> {
    const shard = this.#shard;
    const due = await shard.statement([], () => this.#dueEvents(eventsMax));
    if (due.length === 0) return [];
    const work = (lockedOut: ReadonlySet<EventId>): Snapshot[] => {
      const swept = due.filter((id) => !lockedOut.has(id));
      shard.commit(model.sweep(shard.state, swept, world().time));
      return swept.flatMap((id) => model.snapshotOf(shard.state, id) ?? []);
    };
    return shard.statement(due, work, { passesOver: () => true });
  }

  override async createEvent(request: CreateEventRequest): Promise<EventResult> {
    const shard = this.#shard;
    return shard.statement([request.id], () => {
      if (!shard.owned.has(slotOf(request.id))) return { outcome: "wrong_shard" };
      if (!shard.state.events.has(request.id)) shard.commit(model.addEvent(shard.state, newEvent(request)));
      return { outcome: "saved", snapshot: model.snapshotOf(shard.state, request.id) as Snapshot };
    });
  }

  override async changeEvent(request: ChangeEventRequest): Promise<EventResult> {
    const shard = this.#shard;
    return shard.statement([request.id], () => {
      const { state, result } = model.changeEvent(shard.state, request, world().time);
      shard.commit(state);
      return result;
    });
  }

  override async readEvents(ids: readonly EventId[]): Promise<ReadResult<Snapshot>[]> {
    const { owned } = this.#shard;
    return this.#shard.statement([], () =>
      ids.map((id) => found(owned.has(slotOf(id)), model.snapshotOf(this.#shard.state, id))),
    );
  }

  override async readBookings(ids: readonly BookingId[]): Promise<ReadResult<Booking>[]> {
    const { owned } = this.#shard;
    return this.#shard.statement([], () =>
      ids.map((id) => {
        const booking = this.#shard.state.bookings.get(id);
        return found(owned.has(slotOfBooking(id)), booking && model.seen(booking, world().time));
      }),
    );
  }

  override async readRequests(ids: readonly BookingId[]): Promise<ReadResult<RequestState>[]> {
    const shard = this.#shard;
    return shard.statement([], () =>
      ids.map((id) => {
        const decision = shard.outcomeOf(id);
        if (!shard.owned.has(slotOfBooking(id))) return { outcome: "wrong_shard" };
        if (decision === undefined) return { outcome: "found", value: { status: "queued", ahead: null } };
        if (decision.outcome === "lapsed") return { outcome: "found", value: { status: "lapsed" } };
        return { outcome: "found", value: { status: "decided", decision } };
      }),
    );
  }

  override async pruneRequests(): Promise<void> {
    // A run is shorter than outcomes are kept.
  }

  override async listEvents(before: EventId | null, limit: number): Promise<Event[]> {
    return this.#shard.statement([], () =>
      [...this.#shard.state.events.keys()]
        .filter((id) => before === null || id < before)
        .toSorted()
        .toReversed()
        .slice(0, limit)
        .flatMap((id) => model.snapshotOf(this.#shard.state, id)?.event ?? []),
    );
  }

  override async readChanges(after: number | null, bookingsMax: number): Promise<ChangesRead> {
    return this.#shard.statement([], () => {
      const { log } = this.#shard;
      const newest = log.at(-1)?.position ?? 0;
      const told = { dropped: false, asOf: new Date(world().time).toISOString(), lagSeconds: 0 } as const;
      if (after === null) return { ...told, changes: [], position: newest };
      if (after > newest) return { dropped: true };
      const changes: Change[] = [];
      for (const change of log.slice(log.findLastIndex(({ position }) => position <= after) + 1)) {
        const bookings = [...changes, change].reduce((sum, one) => sum + one.bookings.length, 0);
        if (changes.length > 0 && bookings > bookingsMax) break;
        changes.push(change);
      }
      return { ...told, changes, position: changes.at(-1)?.position ?? after };
    });
  }

  override async copy({ kind, after, limit }: CopyRequest): Promise<CopyPage> {
    return this.#shard.statement([], () => {
      const { state } = this.#shard;
      const all: readonly string[] = [...(kind === "events" ? state.events : state.bookings).keys()];
      const ids = all
        .filter((id) => after === null || id > after)
        .toSorted()
        .slice(0, Math.min(limit, COPY_PAGE_MAX));
      return {
        outcome: "copied",
        events: ids.flatMap((id) => model.snapshotOf(state, id as EventId)?.event ?? []),
        bookings: ids.flatMap((id) => {
          const booking = state.bookings.get(id as BookingId);
          return booking === undefined ? [] : [{ ...booking, confirmedAt: null }];
        }),
        next: ids.length < COPY_PAGE_MAX ? null : (ids.at(-1) ?? null),
      };
    });
  }

  override async dropChanges(): Promise<number> {
    return this.#shard.statement([], () => 0);
  }

  #dueEvents(eventsMax: number): EventId[] {
    const now = world().time;
    const due = [...this.#shard.state.bookings.values()].filter(
      ({ status, expiresAt }) => status === "held" && expiresAt !== null && expiresAt <= now,
    );
    return [...new Set(due.map(({ eventId }) => eventId))].toSorted().slice(0, eventsMax);
  }
}

function found<T>(isOwned: boolean, value: T | undefined): ReadResult<T> {
  if (!isOwned) return { outcome: "wrong_shard" };
  return value === undefined ? { outcome: "absent" } : { outcome: "found", value };
}

function newEvent(request: CreateEventRequest): model.StoredEvent {
  const { claim: _, ...event } = request;
  const createdAt = new Date(timeOf(request.id)).toISOString();
  return {
    ...event,
    status: "on_sale",
    intake: "direct",
    highestMaxPerUser: request.maxPerUser,
    version: 1,
    createdAt,
    updatedAt: createdAt,
  };
}
