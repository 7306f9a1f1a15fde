/** What the comparison of the read side with the shards (read-side.ts) asks of both. */
import type { Statement } from "../shared/database/database.ts";
import type { BookingId, EventId, UserId } from "../shared/domain/ids.ts";

/** The version of the tables that these statements know (read-side/views/tables.ts). */
export const COMPARED_VERSION = 1;

/** Rows of each side that are in memory at once. */
const PAGE_MAX = 5_000;
/** Changes of a shard's log among which an event's version is looked for. */
const LOOK_BACK_MAX = 10_000;

export interface BookingRow {
  readonly id: BookingId;
  readonly userId: UserId;
  readonly eventId: EventId;
  readonly quantity: number;
  /** 0 held, 1 expired, 2 confirmed, 3 cancelled: a booking only goes up. */
  readonly status: number;
  readonly createdAt: Date;
  readonly confirmedAt: Date | null;
  readonly cancelledAt: Date | null;
  /** Of the shard: whether that is known. */
  readonly knowsConfirmedAt?: boolean;
}

export interface EventRow {
  readonly id: EventId;
  readonly version: number;
  readonly available: number;
  readonly total: number | null;
}

// The tables are exchanged as a whole: whoever asks `about` first finds those that serve.
const VIEWS = "from views.about a cross join";

export const VIEWS_FOUND: Statement = {
  name: "audit-views",
  text: `
    select a.version, array(select shard from views.positions where copied is null) as whole
    from views.about a`,
};
export const VIEWS_POSITION: Statement = {
  name: "audit-views-position",
  text: `select p.position::float8 as position ${VIEWS} views.positions p where p.shard = $1`,
};
export const NEWEST_POSITION: Statement = {
  name: "audit-newest-position",
  text: "select newest_position()::float8 as position",
};

const VIEWS_BOOKING = `
  b.id, b.user_id as "userId", b.event_id as "eventId", b.quantity, b.status, b.created_at as "createdAt",
  b.confirmed_at as "confirmedAt", case when b.status = 3 then b.updated_at end as "cancelledAt"`;
export const VIEWS_BOOKINGS_PAGE: Statement = {
  name: "audit-views-bookings-page",
  text: `
    select ${VIEWS_BOOKING} ${VIEWS} views.bookings b
    where (b.user_id, b.id) > ($1 collate "C", $2::uuid) order by b.user_id, b.id limit ${PAGE_MAX}`,
};
export const VIEWS_BOOKINGS: Statement = {
  name: "audit-views-bookings",
  text: `
    select ${VIEWS_BOOKING} ${VIEWS} unnest($1::text[], $2::uuid[]) as x(user_id, id)
    join views.bookings b on b.user_id = x.user_id collate "C" and b.id = x.id`,
};
export const BOOKINGS_PAGE: Statement = {
  name: "audit-bookings-page",
  text: `select id, user_id as "userId" from bookings where id > $1 order by id limit ${PAGE_MAX}`,
};
// What was never a hold was confirmed when it was made. Of other bookings that are cancelled it may not be known when: it was not
// kept once, and what a booking was for a moment within a batch is in no log.
export const BOOKINGS: Statement = {
  name: "audit-bookings",
  text: `
    select b.id, b.user_id as "userId", b.event_id as "eventId", b.quantity, b.created_at as "createdAt",
           array_position(array['held', 'expired', 'confirmed', 'cancelled'], b.status) - 1 as status,
           coalesce(b.confirmed_at, case when b.expires_at is null then b.created_at
                                         when b.status = 'confirmed' then b.updated_at end) as "confirmedAt",
           case when b.status = 'cancelled' then b.updated_at end as "cancelledAt",
           b.status <> 'cancelled' or b.expires_at is null or coalesce(b.confirmed_at < b.updated_at, false)
             as "knowsConfirmedAt"
    from bookings b where b.id = any ($1::uuid[])`,
};

const VIEWS_EVENT = "e.id, e.version::float8 as version, e.available, e.total";
export const VIEWS_EVENTS_PAGE: Statement = {
  name: "audit-views-events-page",
  text: `select ${VIEWS_EVENT} ${VIEWS} views.events e where e.id > $1 order by e.id limit ${PAGE_MAX}`,
};
export const VIEWS_EVENTS: Statement = {
  name: "audit-views-events",
  text: `select ${VIEWS_EVENT} ${VIEWS} views.events e where e.id = any ($1::uuid[])`,
};
export const EVENTS_PAGE: Statement = {
  name: "audit-events-page",
  text: `select id from events where id > $1 order by id limit ${PAGE_MAX}`,
};
export const EVENTS: Statement = {
  name: "audit-events",
  text: `
    select id, version::float8 as version, available_tickets as available, total_tickets as total
    from events where id = any ($1::uuid[])`,
};
/** How many tickets were left at a version that is not the newest any more. */
export const LOGGED_EVENT: Statement = {
  name: "audit-logged-event",
  text: `
    select x.available
    from changes c cross join unnest(c.events, c.versions, c.available) as x(id, version, available)
    where c.position > newest_position() - ${LOOK_BACK_MAX} and x.id = $1 and x.version = $2`,
};

/** What is counted, and the read side's own rows: each is one moment. `$1` is how many differences are shown. */
export const COUNTS: readonly Statement[] = [
  {
    name: "V10 tickets and buyers are counted by status",
    text: `
      select event_id, to_json(s) as counted, to_json(c) as bookings
      from (select s.event_id, s.held, s.expired, s.confirmed, s.cancelled, s.buyers ${VIEWS} views.sales s) s
      full join (
        select event_id,
               coalesce(sum(quantity) filter (where status = 0), 0) as held,
               coalesce(sum(quantity) filter (where status = 1), 0) as expired,
               coalesce(sum(quantity) filter (where status = 2), 0) as confirmed,
               coalesce(sum(quantity) filter (where status = 3), 0) as cancelled,
               count(distinct user_id) filter (where status = 2) as buyers
        from views.bookings group by event_id
      ) c using (event_id)
      where (s.held, s.expired, s.confirmed, s.cancelled, s.buyers)
            is distinct from (c.held, c.expired, c.confirmed, c.cancelled, c.buyers)
      limit $1`,
  },
  {
    name: "V10 the bookings of each buyer are counted",
    text: `
      select event_id, user_id, u.bookings as counted, c.bookings
      from (select u.event_id, u.user_id, u.bookings ${VIEWS} views.buyers u where u.bookings <> 0) u
      full join (
        select event_id, user_id, count(*)::integer as bookings
        from views.bookings where status = 2 group by event_id, user_id
      ) c using (event_id, user_id)
      where u.bookings is distinct from c.bookings
      limit $1`,
  },
  {
    name: "V10 tickets are counted by minute",
    text: `
      select event_id, minute, to_json(m) as counted, to_json(c) as bookings
      from (select m.event_id, m.minute, m.confirmed, m.cancelled ${VIEWS} views.minutes m) m
      full join (
        select x.event_id, date_trunc('minute', x.at, 'UTC') as minute,
               sum(x.confirmed) as confirmed, sum(x.cancelled) as cancelled
        from (
          select event_id, confirmed_at as at, quantity as confirmed, 0 as cancelled
          from views.bookings where confirmed_at is not null
          union all
          select event_id, updated_at, 0, quantity from views.bookings where status = 3
        ) x
        group by 1, 2
      ) c using (event_id, minute)
      where (m.confirmed, m.cancelled) is distinct from (c.confirmed, c.cancelled)
      limit $1`,
  },
];
