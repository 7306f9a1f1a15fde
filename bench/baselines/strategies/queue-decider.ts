/** Decides a batch of the queue: one transaction, in which the bookings are judged one after another. */
import type { Connection } from "../../../shared/database/connection.ts";
import { inTransaction, type Pool } from "../pool.ts";
import { type BookingRequest, type Decision, refusalOf, type Stock } from "../strategy.ts";

const LOCK = `select id, available_tickets as "availableTickets", max_per_user as "maxPerUser"
         from events where id = any ($1) order by id for update`;
const HELD = `select b.event_id as "eventId", b.user_id as "userId", sum(b.quantity)::integer as held
         from (select distinct * from unnest($1::uuid[], $2::text[])) as asked (event_id, user_id)
         join bookings b on b.event_id = asked.event_id and b.user_id = asked.user_id
         group by b.event_id, b.user_id`;
const BOOKED = "select id from bookings where id = any ($1)";
const WRITE = `with batch as (
           select * from unnest($1::uuid[], $2::uuid[], $3::text[], $4::smallint[], $5::timestamptz[])
             as b (id, event_id, user_id, quantity, created_at)
         ), added as (
           insert into bookings (id, event_id, user_id, quantity, created_at)
           select id, event_id, user_id, quantity, created_at from batch
         )
         update events e set available_tickets = e.available_tickets - s.sold
         from (select event_id, sum(quantity) as sold from batch group by event_id) s
         where e.id = s.event_id`;

export interface QueuedRequest extends BookingRequest {
  /** The queue has delivered this message before. That consumer may have committed it and died before it said so. */
  readonly redelivered: boolean;
}

/** Decides the bookings in their order, with one answer each. If it throws, nothing was booked, unless the answer to the commit was lost. */
export async function decideBatch(pool: Pool, requests: readonly QueuedRequest[]): Promise<Decision[]> {
  return inTransaction(pool, async (connection) => {
    const result = await decide(connection, requests);
    // Row locks write to the log, so the commit of refusals alone would wait for a useless flush.
    return { result, end: result.some(({ outcome }) => outcome === "booked") ? "commit" : "rollback" };
  });
}

async function decide(connection: Connection, requests: readonly QueuedRequest[]): Promise<Decision[]> {
  const eventIds = requests.map(({ eventId }) => eventId);
  const events = await connection.run<Omit<Stock, "held"> & { id: string }>(LOCK, [[...new Set(eventIds)]]);
  const users = await connection.run<{ eventId: string; userId: string; held: number }>(HELD, [
    eventIds,
    requests.map(({ userId }) => userId),
  ]);
  const before = await bookedBefore(connection, requests);
  const stocks = new Map(events.map((event) => [event.id, event]));
  const held = new Map(users.map((row) => [`${row.eventId} ${row.userId}`, row.held]));

  const booked: BookingRequest[] = [];
  const decisions = requests.map((request): Decision => {
    if (before.has(request.id)) return { outcome: "booked" };
    const { eventId, userId, quantity } = request;
    const user = `${eventId} ${userId}`;
    const stock = stocks.get(eventId);
    const refusal = refusalOf(stock && { ...stock, held: held.get(user) ?? 0 }, quantity);
    if (refusal !== undefined || stock === undefined) return refusal ?? { outcome: "event_not_found" };
    stocks.set(eventId, { ...stock, availableTickets: stock.availableTickets - quantity });
    held.set(user, (held.get(user) ?? 0) + quantity);
    booked.push(request);
    return { outcome: "booked" };
  });
  if (booked.length > 0) await write(connection, booked);
  return decisions;
}

async function bookedBefore(
  connection: Connection,
  requests: readonly QueuedRequest[],
): Promise<ReadonlySet<string>> {
  const doubtful = requests.filter(({ redelivered }) => redelivered).map(({ id }) => id);
  if (doubtful.length === 0) return new Set();
  const rows = await connection.run<{ id: string }>(BOOKED, [doubtful]);
  return new Set(rows.map(({ id }) => id));
}

async function write(connection: Connection, bookings: readonly BookingRequest[]): Promise<void> {
  const column = <Key extends keyof BookingRequest>(key: Key) => bookings.map((booking) => booking[key]);
  const values = [column("id"), column("eventId"), column("userId"), column("quantity"), column("createdAt")];
  await connection.run(WRITE, values);
}
