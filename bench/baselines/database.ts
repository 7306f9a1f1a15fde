/**
 * The rows of a baseline: a database of its own, with the two tables that every strategy sells from, and the audit that
 * recomputes from them what must hold. Columns are those that a booking needs; onsale's rows are wider.
 */
import { Connection } from "../../shared/database/connection.ts";
import type { ContenderAudit, NewEvent } from "./contender.ts";

const SCHEMA = `
create table events (
  id                uuid primary key,
  total_tickets     integer not null,
  available_tickets integer not null,
  max_per_user      smallint not null,
  constraint never_oversold check (available_tickets between 0 and total_tickets)
)
-- Every booking updates its event's row; room on the page keeps those updates on it, without touching an index (HOT).
with (fillfactor = 70);

create table bookings (
  id         uuid primary key,
  event_id   uuid not null references events,
  user_id    text not null,
  quantity   smallint not null check (quantity > 0),
  created_at timestamptz not null
);
create index bookings_of_user on bookings (event_id, user_id)`;

export interface BaselineDatabase extends AsyncDisposable {
  readonly url: string;
  /** Adds events of which nothing is sold. */
  insertEvents(events: readonly NewEvent[]): Promise<void>;
  audit(): Promise<ContenderAudit>;
}

/** Makes the database afresh, whatever was left under its name; dropped when disposed. */
export async function createBaselineDatabase(
  serverUrl: string,
  name: string,
  furtherSchema: string,
): Promise<BaselineDatabase> {
  const url = `${serverUrl}${name}`;
  const drop = `drop database if exists ${name} with (force)`;
  await run(`${serverUrl}postgres`, drop);
  await run(`${serverUrl}postgres`, `create database ${name} strategy file_copy`);
  try {
    using connection = connectTo(url);
    await connection.script(`${SCHEMA}; ${furtherSchema}`);
  } catch (error) {
    await run(`${serverUrl}postgres`, drop);
    throw error;
  }
  return {
    url,
    async insertEvents(events) {
      await run(
        url,
        `insert into events (id, total_tickets, available_tickets, max_per_user)
         select id, total, total, max_per_user
         from unnest($1::uuid[], $2::integer[], $3::smallint[]) as e (id, total, max_per_user)`,
        [
          events.map(({ id }) => id),
          events.map(({ totalTickets }) => totalTickets),
          events.map(({ maxPerUser }) => maxPerUser),
        ],
      );
    },
    audit: async () => audit(url),
    [Symbol.asyncDispose]: async () => void (await run(`${serverUrl}postgres`, drop)),
  };
}

async function audit(url: string): Promise<ContenderAudit> {
  const events = await run<{ id: string; total: number; available: number; sold: number; bookings: number }>(
    url,
    `select e.id, e.total_tickets as total, e.available_tickets as available,
            coalesce(b.sold, 0)::integer as sold, coalesce(b.bookings, 0)::integer as bookings
     from events e
     left join (
       select event_id, sum(quantity) as sold, count(*) as bookings from bookings group by event_id
     ) b on b.event_id = e.id`,
  );
  const users = await run<{ id: string; userId: string; held: number; max: number }>(
    url,
    `select e.id, b.user_id as "userId", sum(b.quantity)::integer as held, e.max_per_user as max
     from bookings b
     join events e on e.id = b.event_id
     group by e.id, b.user_id
     having sum(b.quantity) > e.max_per_user`,
  );
  const violations = events.flatMap(({ id, total, available, sold }) => [
    ...(sold > total ? [`event ${id} is oversold: ${sold} of ${total} tickets`] : []),
    ...(sold + available === total
      ? []
      : [`event ${id} has ${total} tickets, but ${sold} sold and ${available} available`]),
  ]);
  for (const { id, userId, held, max } of users)
    violations.push(`user ${userId} has ${held} tickets of event ${id}, above the limit of ${max}`);
  return { bookings: events.reduce((sum, event) => sum + event.bookings, 0), violations };
}

/** Longer than any audit takes. */
const STATEMENT_MAX_MS = 60_000;

/** Runs one statement on a connection of its own. */
export async function run<Row extends object>(
  url: string,
  text: string,
  values: readonly unknown[] = [],
): Promise<Row[]> {
  using connection = connectTo(url);
  return await connection.run<Row>(text, values);
}

function connectTo(url: string): Connection {
  return new Connection({ url, session: { application_name: "bench" }, statementMs: STATEMENT_MAX_MS });
}
