/**
 * One transaction per booking, under a lock on the event's row: what most teams write, and write correctly. The lock is
 * held over four round trips and the flush, so an event sells at the pace of one client that talks to the database.
 */
import type { Connection } from "../../../shared/database/connection.ts";
import { createPool, inTransaction, type Pool } from "../pool.ts";
import {
  type BookingRequest,
  type Decision,
  refusalOf,
  type Stock,
  type Strategy,
  type StrategyModule,
} from "../strategy.ts";

const CONNECTIONS_MAX = 30;

const LOCK = `select available_tickets as "availableTickets", max_per_user as "maxPerUser"
         from events where id = $1 for update`;
const HELD = `select coalesce(sum(quantity), 0)::integer as held from bookings where event_id = $1 and user_id = $2`;
const INSERT = `insert into bookings (id, event_id, user_id, quantity, created_at) values ($1, $2, $3, $4, $5)`;
const TAKE = `update events set available_tickets = available_tickets - $2 where id = $1`;

export const forUpdate: StrategyModule = {
  title: "one transaction per booking, SELECT … FOR UPDATE on the event",
  needs: [],
  schema: "",
  start: async ({ databaseUrl, connectionsMax = CONNECTIONS_MAX }) =>
    new ForUpdate(createPool(databaseUrl, connectionsMax)),
};

class ForUpdate implements Strategy {
  readonly #pool: Pool;
  #lockWaitSeconds = 0;

  constructor(pool: Pool) {
    this.#pool = pool;
  }

  get stats() {
    return { retries: 0, lockWaitSeconds: this.#lockWaitSeconds };
  }

  async book(request: BookingRequest): Promise<Decision> {
    return inTransaction(this.#pool, async (connection) => {
      const result = await this.#decide(connection, request);
      // A row lock writes to the log, so the commit of a refusal would wait for a useless flush.
      return { result, end: result.outcome === "booked" ? "commit" : "rollback" };
    });
  }

  async #decide(connection: Connection, request: BookingRequest): Promise<Decision> {
    const { id, eventId, userId, quantity, createdAt } = request;
    const asked = performance.now();
    const [event] = await connection.run<Omit<Stock, "held">>(LOCK, [eventId]);
    this.#lockWaitSeconds += (performance.now() - asked) / 1000;
    const [user] = await connection.run<{ held: number }>(HELD, [eventId, userId]);
    const refusal = refusalOf(event && { ...event, held: user?.held ?? 0 }, quantity);
    if (refusal !== undefined) return refusal;
    await connection.run(INSERT, [id, eventId, userId, quantity, createdAt]);
    await connection.run(TAKE, [eventId, quantity]);
    return { outcome: "booked" };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#pool.close();
  }
}
