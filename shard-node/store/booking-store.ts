/**
 * What a shard's database can be asked: to decide a batch (batch.ts), to save an event, to read, to read its log
 * (change-log.ts), to keep webhooks and their deliveries (webhooks.ts). Each is one statement;
 * those that write call one function (migrations/shard/).
 */
import { type Command, isBookCommand } from "../../shared/domain/commands.ts";
import type { Booking } from "../../shared/domain/bookings.ts";
import type {
  ChangeEventRequest,
  CopiedBooking,
  CopyPage,
  CopyRequest,
  CreateEventRequest,
  EventResult,
  ReadResult,
  WebhooksRequest,
  WebhooksResult,
} from "../../shared/wire/rpc.ts";
import type { Event, Snapshot } from "../../shared/domain/events.ts";
import {
  type BookingId,
  type EventId,
  newBookingId,
  slotOfBooking,
  timeOf,
} from "../../shared/domain/ids.ts";
import { type BatchDecision, decideBatch, type DecideOptions, type FreshIds } from "./batch.ts";
import { type ChangesRead, dropChanges, holdPlace, type Place, readChanges } from "./change-log.ts";
import { pruneRequests, readRequests } from "./requests.ts";
import {
  changeWebhooks,
  settleDeliveries,
  type Settled,
  type Taken,
  takeDeliveries,
  type Taking,
} from "./webhooks.ts";
import { bounded, boundsOf, oneRow } from "./row-locks.ts";
import {
  type BookingRow,
  bookingFrom,
  type CopiedRow,
  copiedFrom,
  eventFrom,
  type EventRow,
  snapshotFrom,
} from "./rows.ts";
import type { Database, Statement } from "../../shared/database/database.ts";
import { REQUEST_MAX_AGE_SECONDS, type RequestState } from "../../shared/domain/requests.ts";
import { type Slot, slotOf } from "../../shared/domain/slots.ts";
import type { Span } from "../../shared/watch/tracing.ts";

const CREATE_EVENT = bounded(
  "create-event",
  "create_event($3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
);
const CHANGE_EVENT = bounded("change-event", "change_event($3, $4, $5, $6, $7, $8)");
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
           coalesce($3, now_ms()) as now,
           array(select slot from owned_slots where slot = any ($2::smallint[])) as "ownedSlots"`,
};
// An event's id carries its time, so the primary key serves the order "newest first".
const LIST_EVENTS: Statement = {
  name: "list-events",
  text: `
    select coalesce(json_agg(e), '[]') as rows
    from (select * from events where $1::uuid is null or id < $1 order by id desc limit $2) e`,
};
const COPY_EVENTS: Statement = {
  name: "copy-events",
  text: `
    select coalesce(json_agg(e), '[]') as rows
    from (select * from events where $1::uuid is null or id > $1 order by id limit $2) e`,
};
const COPY_BOOKINGS: Statement = {
  name: "copy-bookings",
  text: `
    select coalesce(json_agg(b), '[]') as rows
    from (select * from bookings where $1::uuid is null or id > $1 order by id limit $2) b`,
};
// A busy event expires its own holds with its next batch; these are the others.
const EVENTS_WITH_DUE_HOLDS: Statement = {
  name: "events-with-due-holds",
  text: `
    select distinct event_id as id from bookings
    where status = 'held' and expires_at <= now() limit $1`,
};

export class BookingStore {
  readonly #batches: Database;
  readonly #others: Database;
  readonly #now: () => number;
  readonly #requestMaxAgeSeconds: number;

  /**
   * Batches have connections of their own, so a flood of reads never makes a booking wait for one. A booking request that is older
   * than `requestMaxAgeSeconds` lapses.
   */
  constructor(
    batches: Database,
    now: () => number,
    others = batches,
    requestMaxAgeSeconds = REQUEST_MAX_AGE_SECONDS,
  ) {
    this.#batches = batches;
    this.#others = others;
    this.#now = now;
    this.#requestMaxAgeSeconds = requestMaxAgeSeconds;
  }

  /** Ids for the bookings that a batch may make. */
  freshIdsFor(commands: readonly Command[]): FreshIds {
    const now = this.#now();
    return commands.filter(isBookCommand).map(({ requestId, slot }) => requestId ?? newBookingId(slot, now));
  }

  /**
   * Decides a batch in one transaction: confirm and cancel first, then book and hold, each in the given order. Throws
   * DatabaseError.
   */
  async decide(
    commands: readonly Command[],
    ids: FreshIds,
    options: DecideOptions = {},
  ): Promise<BatchDecision> {
    const requestMaxAgeSeconds = this.#requestMaxAgeSeconds;
    return decideBatch(this.#batches, commands, ids, [], { requestMaxAgeSeconds, ...options });
  }

  /**
   * Frees the tickets of due holds, of at most `eventsMax` events, and returns these events. Events that are locked wait for the
   * next sweep: to wait for one would keep the locks of the others (L4).
   */
  async expireDueHolds(eventsMax: number): Promise<readonly Snapshot[]> {
    const due = await this.#others.query<{ id: EventId }>(EVENTS_WITH_DUE_HOLDS, [eventsMax]);
    if (due.length === 0) return [];
    const events = due.map(({ id }) => id);
    return (await decideBatch(this.#others, [], [], events, { waits: false })).snapshots;
  }

  /** Creates an event. A second request with the same id or claim gets the event that the first one created. */
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
      request.ownerId,
      request.claim?.key,
      request.claim?.content,
    ];
    return this.#saveEvent(CREATE_EVENT, values, span);
  }

  /**
   * Changes the given fields of an event, if it is the organizer's and has one of `versions`. Waits so long for its lock; by
   * default as long as the database's lock timeout.
   */
  async changeEvent(
    { id, organizer, changes, versions }: ChangeEventRequest,
    { at, span, lockWaitMs }: { at?: Date; span?: Span | undefined; lockWaitMs?: number } = {},
  ): Promise<EventResult> {
    const columns = {
      name: changes.name,
      venue: changes.venue,
      starts_at: changes.startsAt,
      sales_start_at: changes.salesStartAt,
      sales_end_at: changes.salesEndAt,
      total_tickets: changes.totalTickets,
      max_per_user: changes.maxPerUser,
      intake: changes.intake,
      status: changes.status,
    };
    const values = [id, slotOf(id), JSON.stringify(columns), at ?? null, versions, organizer];
    return this.#saveEvent(CHANGE_EVENT, values, span, lockWaitMs);
  }

  async readEvents(ids: readonly EventId[], span?: Span): Promise<ReadResult<Snapshot>[]> {
    const slots = ids.map(slotOf);
    const read = await oneRow<OwnedRows<EventRow>>(this.#others, READ_EVENTS, [ids, slots], span);
    return inOrder(ids, slots, read, snapshotFrom);
  }

  /** One clock, the database's, says whether a hold is due: here, and when it is confirmed. Tests give `at`. */
  async readBookings(ids: readonly BookingId[], at?: Date, span?: Span): Promise<ReadResult<Booking>[]> {
    const slots = ids.map(slotOfBooking);
    const read = await oneRow<OwnedRows<BookingRow> & { now: Date }>(
      this.#others,
      READ_BOOKINGS,
      [ids, slots, at ?? null],
      span,
    );
    return inOrder(ids, slots, read, (row) => bookingFrom(row, read.now.getTime()));
  }

  /** What became of booking requests. One that nobody decided in time lapses by this. */
  async readRequests(ids: readonly BookingId[], at?: Date, span?: Span): Promise<ReadResult<RequestState>[]> {
    return readRequests(this.#others, ids, this.#requestMaxAgeSeconds, at, span);
  }

  /** Forgets outcomes of requests that are kept no longer. */
  async pruneRequests(): Promise<void> {
    await pruneRequests(this.#others);
  }

  /** At most `limit` events older than `before`, newest first. */
  async listEvents(before: EventId | null, limit: number, span?: Span): Promise<Event[]> {
    const { rows } = await oneRow<{ rows: EventRow[] }>(this.#others, LIST_EVENTS, [before, limit], span);
    return rows.map(eventFrom);
  }

  /** The events, or the bookings, after an id, in the order of ids. */
  async copy({ kind, after, limit }: CopyRequest): Promise<CopyPage> {
    const events: Event[] = [];
    const bookings: CopiedBooking[] = [];
    if (kind === "events") {
      const { rows } = await oneRow<{ rows: EventRow[] }>(this.#others, COPY_EVENTS, [after, limit]);
      events.push(...rows.map(eventFrom));
    } else {
      const { rows } = await oneRow<{ rows: CopiedRow[] }>(this.#others, COPY_BOOKINGS, [after, limit]);
      bookings.push(...rows.map(copiedFrom));
    }
    const copied = kind === "events" ? events : bookings;
    const next = copied.length === limit ? (copied.at(-1)?.id ?? null) : null;
    return { outcome: "copied", events, bookings, next };
  }

  /** The log after a position (change-log.ts). */
  async readChanges(after: number | null, bookingsMax: number, isPlace = false): Promise<ChangesRead> {
    return readChanges(this.#others, after, bookingsMax, isPlace);
  }

  /** Drops changes that are older than `keepHours` (change-log.ts). */
  async dropChanges(keepHours: number): Promise<number | undefined> {
    return dropChanges(this.#others, keepHours);
  }

  /** The place of a follower (change-log.ts). */
  async holdPlace(follower: string, holder: string, seconds: number, position?: number): Promise<Place> {
    return holdPlace(this.#others, follower, holder, seconds, position);
  }

  /** Adds, lists or removes webhooks (webhooks.ts). */
  async changeWebhooks(request: WebhooksRequest, host: string, span?: Span): Promise<WebhooksResult> {
    return changeWebhooks(this.#others, request, host, span);
  }

  /** Takes deliveries that are due (webhooks.ts). */
  async takeDeliveries(taking: Taking): Promise<Taken> {
    return takeDeliveries(this.#others, taking);
  }

  /** Keeps what became of deliveries (webhooks.ts). */
  async settleDeliveries(settled: readonly Settled[]): Promise<void> {
    await settleDeliveries(this.#others, settled);
  }

  async #saveEvent(
    statement: Statement,
    values: readonly unknown[],
    span: Span | undefined,
    lockWaitMs?: number,
  ): Promise<EventResult> {
    const { result } = await oneRow<{
      result: { outcome: EventResult["outcome"]; snapshots?: EventRow[] };
    }>(this.#others, statement, [...boundsOf(this.#others, lockWaitMs), ...values], span);
    const [row] = result.snapshots ?? [];
    return {
      outcome: result.outcome,
      ...(row === undefined ? {} : { snapshot: snapshotFrom(row) }),
    } as EventResult;
  }
}

interface OwnedRows<Row> {
  readonly rows: readonly Row[];
  /** Those of the slots asked for that this shard owns. */
  readonly ownedSlots: readonly number[];
}

function inOrder<Id extends string, Row extends { id: Id }, Value>(
  ids: readonly Id[],
  slots: readonly Slot[],
  { rows, ownedSlots }: OwnedRows<Row>,
  valueFrom: (row: Row) => Value,
): ReadResult<Value>[] {
  const owned = new Set(ownedSlots);
  const found = new Map(rows.map((row) => [row.id, row]));
  return ids.map((id, index) => {
    const row = found.get(id);
    if (!owned.has(slots[index] ?? -1)) return { outcome: "wrong_shard" };
    return row === undefined ? { outcome: "absent" } : { outcome: "found", value: valueFrom(row) };
  });
}
