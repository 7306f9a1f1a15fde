/**
 * How changes, and pages of a copy, get into the tables. Each is one statement, and so one transaction: it moves the shard's
 * position from the one that the writer knows, or does nothing. What is counted follows from what happened to the rows, so
 * nothing counts twice, however copy and log overlap.
 */
import type { Database, Statement } from "../../shared/database/database.ts";
import type { Change } from "../../shared/domain/changes.ts";
import type { BOOKING_STATUSES } from "../../shared/domain/bookings.ts";
import type { BookingId, EventId, ShardId } from "../../shared/domain/ids.ts";
import type { CopiedBooking, CopyPage } from "../../shared/wire/rpc.ts";
import type { Schema, ShardPosition } from "./tables.ts";

/** A status is stored as its place here: what a booking becomes has a higher one than what it was. */
export const RANKED_STATUSES = [
  "held",
  "expired",
  "confirmed",
  "cancelled",
] as const satisfies readonly (typeof BOOKING_STATUSES)[number][];

const rankOf = Object.fromEntries(RANKED_STATUSES.map((status, rank) => [status, rank])) as Readonly<
  Record<(typeof RANKED_STATUSES)[number], number>
>;

/** What is known of an event; `total` only from those who tell of the whole event. */
interface EventState {
  readonly version: number;
  readonly available: number;
  readonly total: number | null;
}

/** Rows to write: each event and each booking once. */
export interface Rows {
  readonly events: ReadonlyMap<EventId, EventState>;
  readonly bookings: ReadonlyMap<BookingId, CopiedBooking>;
}

/** One row for each event and booking of the changes, which are in order. */
export function rowsOf(changes: readonly Change[]): Rows {
  const events = new Map<EventId, EventState>();
  const bookings = new Map<BookingId, CopiedBooking>();
  for (const change of changes) {
    for (const { id, version, availableTickets } of change.events)
      events.set(id, { version, available: availableTickets, total: events.get(id)?.total ?? null });
    const { event } = change;
    if (event !== null)
      events.set(event.id, {
        version: event.version,
        available: event.availableTickets,
        total: event.totalTickets,
      });
    for (const booking of change.bookings) {
      const confirmedAt = booking.status === "confirmed" ? booking.updatedAt : null;
      const known = bookings.get(booking.id);
      bookings.set(booking.id, {
        ...booking,
        // Of a booking that has ended otherwise, changes do not tell any more when its hold was to end.
        expiresAt: booking.expiresAt ?? known?.expiresAt ?? null,
        confirmedAt: confirmedAt ?? known?.confirmedAt ?? null,
      });
    }
  }
  return { events, bookings };
}

export function rowsOfPage({ events, bookings }: CopyPage): Rows {
  const states = events.map(({ id, version, availableTickets, totalTickets }) => {
    const state: EventState = { version, available: availableTickets, total: totalTickets };
    return [id, state] as const;
  });
  return { events: new Map(states), bookings: new Map(bookings.map((booking) => [booking.id, booking])) };
}

const beginIn = (schema: Schema): Statement => ({
  name: `begin-${schema}`,
  text: `
    insert into ${schema}.positions (shard, position, copied)
    select $1, $2, $3 from ${schema}.about a where a.build = $4
    on conflict do nothing`,
});

// Everything is written by its key, so no plan depends on how large a table was when the plan was made.
const writeIn = (schema: Schema): Statement => ({
  name: `write-${schema}`,
  text: `
    with moved as (
      update ${schema}.positions set position = $4, copied = $5, as_of = $6
      where shard = $1 and position = $2 and copied is not distinct from $3 and (select build from ${schema}.about) = $7
      returning shard
    ), told as (
      insert into ${schema}.events as e (id, version, available, total)
      select x.id, x.version, x.available, x.total
      from unnest($8::uuid[], $9::bigint[], $10::integer[], $11::integer[]) as x(id, version, available, total)
      where exists (select from moved)
      on conflict (id) do update
      set version = excluded.version, available = excluded.available, total = coalesce(excluded.total, e.total)
      where e.version < excluded.version
    ), stored as (
      insert into ${schema}.bookings as b
        (user_id, id, event_id, quantity, status, expires_at, created_at, updated_at, confirmed_at)
      select x.user_id, x.id, x.event_id, x.quantity, x.status, x.expires_at, x.created_at, x.updated_at, x.confirmed_at
      from unnest($12::text[], $13::uuid[], $14::uuid[], $15::smallint[], $16::smallint[], $17::timestamptz[],
                  $18::timestamptz[], $19::timestamptz[], $20::timestamptz[])
        as x(user_id, id, event_id, quantity, status, expires_at, created_at, updated_at, confirmed_at)
      where exists (select from moved)
      on conflict (user_id, id) do update
      set status_before = b.status, status = excluded.status, updated_at = excluded.updated_at,
          expires_at = coalesce(b.expires_at, excluded.expires_at),
          confirmed_at = coalesce(b.confirmed_at, excluded.confirmed_at)
      where b.status < excluded.status
      returning event_id, user_id, quantity, status_before as was, status as now, updated_at, confirmed_at
    ), tickets as (
      select event_id,
             coalesce(sum(quantity) filter (where now = 0), 0) - coalesce(sum(quantity) filter (where was = 0), 0) as held,
             coalesce(sum(quantity) filter (where now = 1), 0) - coalesce(sum(quantity) filter (where was = 1), 0) as expired,
             coalesce(sum(quantity) filter (where now = 2), 0) - coalesce(sum(quantity) filter (where was = 2), 0) as confirmed,
             coalesce(sum(quantity) filter (where now = 3), 0) as cancelled
      from stored group by event_id
    ), counted as (
      insert into ${schema}.buyers as u (event_id, user_id, bookings)
      select event_id, user_id, count(*) filter (where now = 2) - count(*) filter (where was = 2)
      from stored
      group by event_id, user_id
      having count(*) filter (where now = 2) <> count(*) filter (where was = 2)
      on conflict (event_id, user_id) do update
      set bookings_before = u.bookings, bookings = u.bookings + excluded.bookings
      returning event_id, bookings_before as was, bookings as now
    ), bought as (
      select event_id, count(*) filter (where now > 0) - count(*) filter (where was > 0) as buyers
      from counted group by event_id
    ), sold as (
      insert into ${schema}.sales as s (event_id, held, expired, confirmed, cancelled, buyers)
      select t.event_id, t.held, t.expired, t.confirmed, t.cancelled, coalesce(b.buyers, 0)
      from tickets t left join bought b on b.event_id = t.event_id
      on conflict (event_id) do update
      set held = s.held + excluded.held, expired = s.expired + excluded.expired,
          confirmed = s.confirmed + excluded.confirmed, cancelled = s.cancelled + excluded.cancelled,
          buyers = s.buyers + excluded.buyers
    ), timed as (
      insert into ${schema}.minutes as m (event_id, minute, confirmed, cancelled)
      select event_id, minute, sum(confirmed), sum(cancelled)
      from (
        select event_id, date_trunc('minute', confirmed_at, 'UTC') as minute, quantity as confirmed, 0 as cancelled
        from stored where confirmed_at is not null and coalesce(was, 0) < 2
        union all
        select event_id, date_trunc('minute', updated_at, 'UTC'), 0, quantity from stored where now = 3
      ) x
      group by event_id, minute
      on conflict (event_id, minute) do update
      set confirmed = m.confirmed + excluded.confirmed, cancelled = m.cancelled + excluded.cancelled
    )
    select exists (select from moved) as moved`,
});

/** Writes for one build of the tables: when another has replaced it, nothing is written. */
export class Writer {
  readonly #database: Pick<Database, "query">;
  readonly #build: string;
  readonly #begin: Statement;
  readonly #write: Statement;
  readonly schema: Schema;

  constructor(database: Pick<Database, "query">, schema: Schema, build: string) {
    this.#database = database;
    this.#build = build;
    this.schema = schema;
    this.#begin = beginIn(schema);
    this.#write = writeIn(schema);
  }

  get build(): string {
    return this.#build;
  }

  /** The shard's log ended at `position`, and its copy begins. Does nothing when it has begun already. Throws DatabaseError. */
  async begin(shard: ShardId, position: number, copied: string): Promise<void> {
    await this.#database.query(this.#begin, [shard, position, copied, this.#build]);
  }

  /** Returns false, and writes nothing, when the shard is not at `from` any more. Throws DatabaseError. */
  async write(shard: ShardId, from: ShardPosition, to: ShardPosition, rows: Rows): Promise<boolean> {
    const events = [...rows.events];
    const bookings = [...rows.bookings.values()];
    const [result] = await this.#database.query<{ moved: boolean }>(this.#write, [
      shard,
      from.position,
      from.copied,
      to.position,
      to.copied,
      to.asOf,
      this.#build,
      events.map(([id]) => id),
      events.map(([, { version }]) => version),
      events.map(([, { available }]) => available),
      events.map(([, { total }]) => total),
      bookings.map(({ userId }) => userId),
      bookings.map(({ id }) => id),
      bookings.map(({ eventId }) => eventId),
      bookings.map(({ quantity }) => quantity),
      bookings.map(({ status }) => rankOf[status]),
      bookings.map(({ expiresAt }) => expiresAt),
      bookings.map(({ createdAt }) => createdAt),
      bookings.map(({ updatedAt }) => updatedAt),
      bookings.map(({ confirmedAt }) => confirmedAt),
    ]);
    return result?.moved === true;
  }
}
