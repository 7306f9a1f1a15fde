/**
 * What the tables are asked. Each question is one statement, so rows and positions are of one moment. It asks `about` first:
 * an exchange of the tables locks that first too, so neither holds up the other for long.
 */
import type { Database, Statement } from "../../shared/database/database.ts";
import type { Booking } from "../../shared/domain/bookings.ts";
import { invariant } from "../../shared/domain/invariant.ts";
import type { BookingId, EventId, ShardId, UserId } from "../../shared/domain/ids.ts";
import { type EventBookingsRequest, MINUTES_MAX, type Statistics } from "../../shared/wire/read-side.ts";
import { type Positions, positionsIn, VIEWS_VERSION } from "./tables.ts";
import { RANKED_STATUSES } from "./writing.ts";

const HEAD = `a.version, now() as now, ${positionsIn("views")}`;
const COLUMNS = "id, event_id, user_id, quantity, status, expires_at, created_at, updated_at";
/** After all ids: with it, one form of a condition serves the first page too, and an index serves the condition. */
const LAST_ID = "ffffffff-ffff-ffff-ffff-ffffffffffff";
// A due hold is expired for everybody, even before its shard has written that down.
const STATUS_NOW = "case when status = 0 and expires_at <= now() then 1 else status end";

const pageOf = (name: string, condition: string): Statement => ({
  name,
  text: `
    select ${HEAD}, (
      select coalesce(json_agg(b order by b.id desc), '[]')
      from (
        select ${COLUMNS}, ${STATUS_NOW} as now from views.bookings
        where ${condition} and id < coalesce($2::uuid, '${LAST_ID}') and ($4::smallint is null or ${STATUS_NOW} = $4)
        order by id desc limit $3
      ) b) as rows
    from views.about a`,
});
const BOOKINGS_OF_USER = pageOf("bookings-of-user", "user_id = $1");
const BOOKINGS_OF_EVENT = pageOf("bookings-of-event", "event_id = $1");

const STATISTICS: Statement = {
  name: "statistics",
  text: `
    select ${HEAD},
           (select row_to_json(e) from views.events e where e.id = $1 and e.total is not null) as event,
           (select row_to_json(s) from views.sales s where s.event_id = $1) as sales,
           (select coalesce(json_agg(m order by m.minute), '[]')
            from (select * from views.minutes where event_id = $1 order by minute desc limit $2) m) as minutes
    from views.about a`,
};

/** Up to where the tables knew everything when they were asked. */
export interface Head {
  readonly version: number;
  /** By the clock of the database. */
  readonly now: Date;
  readonly positions: Positions;
}

interface BookingRow {
  readonly id: BookingId;
  readonly event_id: EventId;
  readonly user_id: UserId;
  readonly quantity: number;
  readonly now: number;
  readonly expires_at: string | null;
  readonly created_at: string;
  readonly updated_at: string;
}

interface SalesRow {
  readonly held: number;
  readonly expired: number;
  readonly confirmed: number;
  readonly cancelled: number;
  readonly buyers: number;
}

interface MinuteRow {
  readonly minute: string;
  readonly confirmed: number;
  readonly cancelled: number;
}

type Page = Pick<EventBookingsRequest, "before" | "limit" | "status">;

/** A user's bookings of all events, newest first. Throws DatabaseError. */
export async function bookingsOfUser(
  database: Database,
  userId: UserId,
  page: Page,
): Promise<{ head: Head; items: Booking[] }> {
  return bookings(database, BOOKINGS_OF_USER, userId, page);
}

/** An event's bookings, newest first. Throws DatabaseError. */
export async function bookingsOfEvent(
  database: Database,
  eventId: EventId,
  page: Page,
): Promise<{ head: Head; items: Booking[] }> {
  return bookings(database, BOOKINGS_OF_EVENT, eventId, page);
}

/** Undefined `statistics` when nothing is known of the event. Throws DatabaseError. */
export async function statisticsOf(
  database: Database,
  eventId: EventId,
): Promise<{ head: Head; statistics: Statistics | undefined }> {
  const answer = await one<{
    event: { total: number; available: number } | null;
    sales: SalesRow | null;
    minutes: MinuteRow[];
  }>(database, STATISTICS, [eventId, MINUTES_MAX]);
  const { event, sales, minutes } = answer;
  if (event === null) return { head: answer, statistics: undefined };
  const statistics: Statistics = {
    eventId,
    totalTickets: event.total,
    available: event.available,
    held: sales?.held ?? 0,
    confirmed: sales?.confirmed ?? 0,
    cancelled: sales?.cancelled ?? 0,
    expired: sales?.expired ?? 0,
    buyers: sales?.buyers ?? 0,
    perMinute: minutes.map(({ minute, confirmed, cancelled }) => ({
      minute: iso(minute),
      confirmed,
      cancelled,
    })),
  };
  return { head: answer, statistics };
}

/**
 * The moment up to which everything on all of these shards is in; undefined when that cannot be said: a shard is not whole, or
 * the tables are not those of this version.
 */
export function asOfAll({ version, positions }: Head, shards: Iterable<ShardId>): number | undefined {
  if (version !== VIEWS_VERSION) return undefined;
  let least = Number.POSITIVE_INFINITY;
  for (const shard of shards) {
    const { copied, asOf = null } = positions[shard] ?? {};
    if (copied !== null || asOf === null) return undefined;
    least = Math.min(least, Date.parse(asOf));
  }
  return Number.isFinite(least) ? least : undefined;
}

async function bookings(
  database: Database,
  statement: Statement,
  owner: string,
  { before, limit, status }: Page,
): Promise<{ head: Head; items: Booking[] }> {
  const rank = status === null ? null : RANKED_STATUSES.indexOf(status);
  const answer = await one<{ rows: BookingRow[] }>(database, statement, [owner, before, limit, rank]);
  return { head: answer, items: answer.rows.map(bookingFrom) };
}

async function one<Row extends object>(
  database: Database,
  statement: Statement,
  values: readonly unknown[],
): Promise<Row & Head> {
  const [row] = await database.query<Row & Head>(statement, values);
  invariant(row !== undefined, "the tables say what they are", { statement: statement.name });
  return row;
}

function bookingFrom(row: BookingRow): Booking {
  const status = RANKED_STATUSES[row.now] ?? "held";
  return {
    id: row.id,
    eventId: row.event_id,
    userId: row.user_id,
    quantity: row.quantity,
    status,
    expiresAt:
      row.expires_at !== null && (status === "held" || status === "expired") ? iso(row.expires_at) : null,
    createdAt: iso(row.created_at),
    updatedAt: iso(row.updated_at),
  };
}

const iso = (time: string): string => new Date(time).toISOString();
