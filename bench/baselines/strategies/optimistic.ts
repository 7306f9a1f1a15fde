/**
 * Nobody waits for a lock. A request reads the event with its version, decides, and writes if the version is still the same;
 * else it starts again. Every booking of the event raises the version, also those of the same user, so what was
 * read in one statement about event and user is true when the write succeeds.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Connection } from "../../../shared/database/connection.ts";
import { createPool, type Pool, withConnection } from "../pool.ts";
import {
  type BookingRequest,
  type Decision,
  refusalOf,
  type Stock,
  type Strategy,
  type StrategyModule,
} from "../strategy.ts";

/** Of all simultaneous tries for one event, one succeeds. More connections would waste more work. */
const CONNECTIONS_MAX = 8;
const TRIES_MAX = 30;
/** The n-th pause is a random time up to PAUSE_FIRST_MS × 2ⁿ, at most PAUSE_MAX_MS. */
const PAUSE_FIRST_MS = 1;
const PAUSE_MAX_MS = 50;

const READ = `select available_tickets as "availableTickets", max_per_user as "maxPerUser", version,
                (select coalesce(sum(quantity), 0)::integer from bookings where event_id = $1 and user_id = $2) as held
         from events where id = $1`;
const WRITE = `with taken as (
           update events set available_tickets = available_tickets - $4, version = version + 1
           where id = $2 and version = $6
           returning id
         )
         insert into bookings (id, event_id, user_id, quantity, created_at)
         select $1, id, $3, $4, $5 from taken
         returning id`;

export const optimistic: StrategyModule = {
  title: "optimistic locking by a version, retries with jitter",
  needs: [],
  schema: "alter table events add version integer not null default 1",
  start: async ({ databaseUrl, connectionsMax = CONNECTIONS_MAX }) =>
    new Optimistic(createPool(databaseUrl, connectionsMax)),
};

class Optimistic implements Strategy {
  readonly #pool: Pool;
  #retries = 0;

  constructor(pool: Pool) {
    this.#pool = pool;
  }

  get stats() {
    // The write waits for another writer of the row, and only PostgreSQL knows how long.
    return { retries: this.#retries, lockWaitSeconds: undefined };
  }

  /** All tries use one connection: while a try waited for another one, its version would grow old. */
  async book(request: BookingRequest): Promise<Decision> {
    return withConnection(this.#pool, async (connection) => {
      for (let attempt = 1; attempt <= TRIES_MAX; attempt += 1) {
        const decision = await tryOnce(connection, request);
        if (decision !== undefined) return decision;
        this.#retries += 1;
        await sleep(Math.random() * Math.min(PAUSE_FIRST_MS * 2 ** attempt, PAUSE_MAX_MS));
      }
      return { outcome: "overloaded" };
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#pool.close();
  }
}

/** Undefined when another request was faster. */
async function tryOnce(
  connection: Connection,
  { id, eventId, userId, quantity, createdAt }: BookingRequest,
): Promise<Decision | undefined> {
  const [stock] = await connection.run<Stock & { version: number }>(READ, [eventId, userId]);
  const refusal = refusalOf(stock, quantity);
  if (refusal !== undefined) return refusal;
  const values = [id, eventId, userId, quantity, createdAt, stock?.version];
  const written = await connection.run(WRITE, values);
  return written.length === 1 ? { outcome: "booked" } : undefined;
}
