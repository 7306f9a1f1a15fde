/**
 * What a node asks its shard: to decide a batch, to save an event, to read. Each question is one statement, and each that
 * writes calls one function (migrations/shard/).
 */
import { type Command, isBookCommand, type SettleCommand } from "../../shared/domain/commands.ts";
import type { Booking } from "../../shared/domain/bookings.ts";
import type {
  ChangeEventRequest,
  CreateEventRequest,
  EventResult,
  ReadResult,
} from "../../shared/wire/rpc.ts";
import type { Decision } from "../../shared/domain/outcomes.ts";
import type { Event, Snapshot } from "../../shared/domain/events.ts";
import {
  type BookingId,
  type EventId,
  newBookingId,
  slotOfBooking,
  timeOf,
} from "../../shared/domain/ids.ts";
import { invariant } from "../../shared/domain/invariant.ts";
import { plainArray, textArray } from "./arrays.ts";
import { type BatchRow, decisionsFrom } from "./decisions.ts";
import { type BookingRow, bookingFrom, eventFrom, type EventRow, snapshotFrom } from "./rows.ts";
import type { Database, Statement } from "../../shared/database/database.ts";
import { type Slot, slotOf } from "../../shared/domain/slots.ts";
import type { Span } from "../../shared/watch/tracing.ts";

const DECIDE_BATCH: Statement = {
  name: "decide-batch",
  text: bounded("decide_batch($3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)"),
};
/** The notice of decide_batch() when it holds the locks of its events. */
const LOCKED = "locked";
const CREATE_EVENT: Statement = {
  name: "create-event",
  text: bounded("create_event($3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"),
};
const CHANGE_EVENT: Statement = {
  name: "change-event",
  text: bounded("change_event($3, $4, $5, $6)"),
};
const READ_EVENTS: Statement = {
  name: "read-events",
  text: `
    select snapshots_of($1) as rows,
           array(select slot from owned_slots where slot = any ($2::smallint[])) as "ownedSlots"`,
};
const READ_BOOKINGS: Statement = {
  name: "read-bookings",
  text: `
    select (select coalesce(json_agg(b), '[]') from bookings b where b.id = any ($1::uuid[])) as rows,
           array(select slot from owned_slots where slot = any ($2::smallint[])) as "ownedSlots"`,
};
// An event's id begins with its time, so the primary key serves the order "newest first".
const LIST_EVENTS: Statement = {
  name: "list-events",
  text: `
    select coalesce(json_agg(e), '[]') as rows
    from (select * from events where $1::uuid is null or id < $1 order by id desc limit $2) e`,
};
// A busy event expires its own holds with its next batch. These are the others.
const EVENTS_WITH_DUE_HOLDS: Statement = {
  name: "events-with-due-holds",
  text: `
    select distinct event_id as id from bookings
    where status = 'held' and expires_at <= now() limit $1`,
};

export interface BatchDecision {
  /** One per command, in the order of the commands. */
  readonly decisions: readonly Decision[];
  /** Each event of the batch, as the batch left it. */
  readonly snapshots: readonly Snapshot[];
  readonly lockWaitSeconds: number;
}

export interface DecideOptions {
  /** The moment of the decision; only tests choose it. */
  readonly at?: Date;
  /** Called when the batch holds the locks of its events. Any batch sent from then on is decided after this one. */
  readonly locked?: (() => void) | undefined;
  /** The span of the batch, when one of its commands is sampled. */
  readonly span?: Span | undefined;
}

/** Ids of new bookings, in the order of the booking commands. Made once, so that a second try recognises its own booking. */
export type FreshIds = readonly BookingId[];

export class BookingStore {
  readonly #batches: Database;
  readonly #others: Database;
  readonly #now: () => number;

  /** Batches use `batches`; everything else uses `others`. */
  constructor(batches: Database, now: () => number, others = batches) {
    this.#batches = batches;
    this.#others = others;
    this.#now = now;
  }

  /** Ids for the bookings that the commands may make. */
  freshIdsFor(commands: readonly Command[]): FreshIds {
    const now = this.#now();
    return commands.filter(isBookCommand).map((command) => newBookingId(command.slot, now));
  }

  /**
   * Decides a batch in one transaction: confirm and cancel first, then book and hold, each in the given order. At most
   * one booking command per user and event. Throws DatabaseError.
   */
  async decide(
    commands: readonly Command[],
    ids: FreshIds,
    options: DecideOptions = {},
  ): Promise<BatchDecision> {
    return this.#decide(this.#batches, commands, ids, [], options);
  }

  /** Frees the tickets of due holds, of at most `eventsMax` events. Returns the events as they are then. */
  async expireDueHolds(eventsMax: number): Promise<readonly Snapshot[]> {
    const due = await this.#others.query<{ id: EventId }>(EVENTS_WITH_DUE_HOLDS, [eventsMax]);
    if (due.length === 0) return [];
    return (
      await this.#decide(
        this.#others,
        [],
        [],
        due.map((event) => event.id),
        {},
      )
    ).snapshots;
  }

  /** Creates an event; asking again with the same id answers what it created. */
  async createEvent(request: CreateEventRequest, span?: Span): Promise<EventResult> {
    const values = [
      request.id,
      slotOf(request.id),
      request.name,
      request.venue,
      request.startsAt,
      request.salesStartAt,
      request.salesEndAt,
      request.totalTickets,
      request.maxPerUser,
      new Date(timeOf(request.id)),
    ];
    return this.#saveEvent(CREATE_EVENT, values, span);
  }

  /** Changes the given fields of an event. */
  async changeEvent({ id, changes }: ChangeEventRequest, at?: Date, span?: Span): Promise<EventResult> {
    const columns = {
      name: changes.name,
      venue: changes.venue,
      starts_at: changes.startsAt,
      sales_start_at: changes.salesStartAt,
      sales_end_at: changes.salesEndAt,
      total_tickets: changes.totalTickets,
      max_per_user: changes.maxPerUser,
      status: changes.status,
    };
    return this.#saveEvent(CHANGE_EVENT, [id, slotOf(id), JSON.stringify(columns), at ?? null], span);
  }

  async readEvents(ids: readonly EventId[], span?: Span): Promise<ReadResult<Snapshot>[]> {
    const slots = ids.map(slotOf);
    const { rows, ownedSlots } = await this.#one<{ rows: EventRow[]; ownedSlots: number[] }>(
      this.#others,
      READ_EVENTS,
      [ids, slots],
      { span },
    );
    return inOrder(ids, slots, new Set(ownedSlots), new Map(rows.map((row) => [row.id, snapshotFrom(row)])));
  }

  async readBookings(ids: readonly BookingId[], span?: Span): Promise<ReadResult<Booking>[]> {
    const slots = ids.map(slotOfBooking);
    const { rows, ownedSlots } = await this.#one<{ rows: BookingRow[]; ownedSlots: number[] }>(
      this.#others,
      READ_BOOKINGS,
      [ids, slots],
      { span },
    );
    const now = this.#now();
    return inOrder(
      ids,
      slots,
      new Set(ownedSlots),
      new Map(rows.map((row) => [row.id, bookingFrom(row, now)])),
    );
  }

  /** At most `limit` events older than `before`, newest first. */
  async listEvents(before: EventId | null, limit: number, span?: Span): Promise<Event[]> {
    const values = [before, limit];
    const { rows } = await this.#one<{ rows: EventRow[] }>(this.#others, LIST_EVENTS, values, { span });
    return rows.map(eventFrom);
  }

  async #decide(
    database: Database,
    commands: readonly Command[],
    ids: FreshIds,
    alsoExpire: readonly EventId[],
    { at, locked, span }: DecideOptions,
  ): Promise<BatchDecision> {
    const bookings = commands.filter(isBookCommand);
    const settling = commands.filter((command): command is SettleCommand => !isBookCommand(command));
    const slots = new Map<EventId, Slot>();
    for (const { eventId, slot } of bookings) slots.set(eventId, slot);
    for (const event of alsoExpire) slots.set(event, slotOf(event));
    const events = [...slots.keys()];
    const positions = new Map(events.map((event, index) => [event, index + 1]));
    const values = [
      plainArray(events),
      plainArray([...slots.values()]),
      plainArray(bookings.map((command) => positions.get(command.eventId) ?? 0)),
      textArray(bookings.map((command) => command.userId)),
      plainArray(bookings.map((command) => command.quantity)),
      plainArray(bookings.map((command) => (command.kind === "hold" ? command.ttlSeconds : 0))),
      textArray(bookings.map((command) => command.key)),
      plainArray(ids),
      plainArray(settling.map((command) => command.kind)),
      plainArray(settling.map((command) => command.bookingId)),
      plainArray(settling.map((command) => command.slot)),
      settling.map((command) => command.userId),
      at ?? null,
      locked !== undefined,
    ];
    const noticed = (message: string | undefined): void => {
      if (message === LOCKED) locked?.();
    };
    const { result } = await this.#one<{ result: BatchRow }>(
      database,
      DECIDE_BATCH,
      [...boundsOf(database), ...values],
      {
        noticed,
        span,
      },
    );
    return {
      decisions: decisionsFrom(commands, positions, ids, result),
      snapshots: result.snapshots.map(snapshotFrom),
      lockWaitSeconds: result.lockWaitSeconds,
    };
  }

  async #saveEvent(
    statement: Statement,
    values: readonly unknown[],
    span: Span | undefined,
  ): Promise<EventResult> {
    const { result } = await this.#one<{
      result: { outcome: EventResult["outcome"]; snapshots?: EventRow[] };
    }>(this.#others, statement, [...boundsOf(this.#others), ...values], { span });
    const [row] = result.snapshots ?? [];
    return {
      outcome: result.outcome,
      ...(row === undefined ? {} : { snapshot: snapshotFrom(row) }),
    } as EventResult;
  }

  async #one<Row extends object>(
    database: Database,
    statement: Statement,
    values: readonly unknown[],
    options: { noticed?: (message: string | undefined) => void; span: Span | undefined },
  ): Promise<Row> {
    const [row] = await database.query<Row>(statement, values, options.noticed, options.span);
    invariant(row !== undefined, "the statement answers one row", { statement: statement.name });
    return row;
  }
}

/**
 * A call that takes row locks, with the bounds of its waits as $1 and $2. Bounds of the session would not do: a pooler that
 * shares sessions drops them. PostgreSQL evaluates a select list from left to right.
 */
function bounded(call: string): string {
  return `select set_config('lock_timeout', $1, true), set_config('transaction_timeout', $2, true), ${call} as result`;
}

function boundsOf({ bounds }: Database): [string, string] {
  return [String(bounds.lockTimeoutMs), String(bounds.transactionTimeoutMs)];
}

function inOrder<Id extends string, T>(
  ids: readonly Id[],
  slots: readonly Slot[],
  owned: ReadonlySet<number>,
  found: ReadonlyMap<Id, T>,
): ReadResult<T>[] {
  return ids.map((id, index) => {
    const value = found.get(id);
    if (!owned.has(slots[index] ?? -1)) return { outcome: "wrong_shard" };
    return value === undefined ? { outcome: "absent" } : { outcome: "found", value };
  });
}
