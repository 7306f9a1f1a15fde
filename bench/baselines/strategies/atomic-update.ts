/**
 * The database decides, in one round trip: a function takes the tickets with `UPDATE … WHERE available_tickets >= n`, which
 * locks the event's row only from there to the commit. Two requests of one user wait for each other under an advisory lock
 * before that, so the user's limit holds too; a row that counts the user's tickets would be one more row to write.
 */
import { createPool, type Pool, query } from "../pool.ts";
import type { BookingRequest, Decision, Refusal, Strategy, StrategyModule } from "../strategy.ts";

/** More connections for one event would wait inside PostgreSQL, which costs more than waiting in the pool. */
const CONNECTIONS_MAX = 10;

const SCHEMA = `
create function book(
  p_id uuid, p_event_id uuid, p_user_id text, p_quantity integer, p_created_at timestamptz,
  out outcome text, out available integer, out max_per_user integer, out held integer
) language plpgsql as $$
begin
  select e.available_tickets, e.max_per_user into available, max_per_user from events e where e.id = p_event_id;
  if not found then
    outcome := 'event_not_found';
    return;
  end if;
  -- Tickets never come back here, so an old "none" is still true, and this no waits for nobody.
  if available = 0 then
    outcome := 'sold_out';
    return;
  end if;

  perform pg_advisory_xact_lock(hashtextextended(p_user_id, hashtext(p_event_id::text)));
  select coalesce(sum(b.quantity), 0) into held
  from bookings b where b.event_id = p_event_id and b.user_id = p_user_id;
  if held + p_quantity > max_per_user then
    outcome := 'user_limit_exceeded';
    return;
  end if;

  update events e set available_tickets = e.available_tickets - p_quantity
  where e.id = p_event_id and e.available_tickets >= p_quantity;
  if not found then
    select e.available_tickets into available from events e where e.id = p_event_id;
    outcome := case when available = 0 then 'sold_out' else 'insufficient_tickets' end;
    return;
  end if;
  insert into bookings (id, event_id, user_id, quantity, created_at)
  values (p_id, p_event_id, p_user_id, p_quantity, p_created_at);
  outcome := 'booked';
end
$$`;

const BOOK = `select outcome, available, max_per_user as "maxPerUser", held from book($1, $2, $3, $4, $5)`;

interface BookRow {
  readonly outcome: "booked" | Refusal["outcome"];
  readonly available: number;
  readonly maxPerUser: number;
  readonly held: number;
}

export const atomicUpdate: StrategyModule = {
  title: "UPDATE … WHERE available_tickets >= n, in one function call",
  needs: [],
  schema: SCHEMA,
  start: async ({ databaseUrl, connectionsMax = CONNECTIONS_MAX }) =>
    new AtomicUpdate(createPool(databaseUrl, connectionsMax)),
};

class AtomicUpdate implements Strategy {
  readonly #pool: Pool;
  // The waits are inside one statement, where only PostgreSQL sees them.
  readonly stats = { retries: 0, lockWaitSeconds: undefined };

  constructor(pool: Pool) {
    this.#pool = pool;
  }

  async book({ id, eventId, userId, quantity, createdAt }: BookingRequest): Promise<Decision> {
    const [row] = await query<BookRow>(this.#pool, BOOK, [id, eventId, userId, quantity, createdAt]);
    if (row === undefined) throw new Error("book() answers one row");
    const { outcome, available, maxPerUser, held } = row;
    switch (outcome) {
      case "insufficient_tickets":
        return { outcome, availableTickets: available };
      case "user_limit_exceeded":
        return { outcome, maxPerUser, held };
      case "booked":
      case "sold_out":
      case "event_not_found":
        return { outcome };
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#pool.close();
  }
}
