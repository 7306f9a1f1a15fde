/**
 * One transaction per booking, under a lock on the event's row: what most teams write, and write correctly. The lock is
 * held over four round trips and the flush, so an event sells at the pace of one client that talks to the database.
 */
import type pg from "pg";
import { createPool } from "../pool.ts";
import {
  type BookingRequest,
  type Decision,
  refusalOf,
  type Stock,
  type Strategy,
  type StrategyModule,
} from "../strategy.ts";

const CONNECTIONS_MAX = 30;

const LOCK = {
  name: "lock",
  text: `select available_tickets as "availableTickets", max_per_user as "maxPerUser"
         from events where id = $1 for update`,
};
const HELD = {
  name: "held",
  text: `select coalesce(sum(quantity), 0)::integer as held from bookings where event_id = $1 and user_id = $2`,
};
const INSERT = {
  name: "insert",
  text: `insert into bookings (id, event_id, user_id, quantity, created_at) values ($1, $2, $3, $4, $5)`,
};
const TAKE = {
  name: "take",
  text: `update events set available_tickets = available_tickets - $2 where id = $1`,
};

export const forUpdate: StrategyModule = {
  title: "one transaction per booking, SELECT … FOR UPDATE on the event",
  needs: [],
  schema: "",
  start: async ({ databaseUrl, connectionsMax = CONNECTIONS_MAX }) =>
    new ForUpdate(createPool(databaseUrl, connectionsMax)),
};

class ForUpdate implements Strategy {
  readonly #pool: pg.Pool;
  #lockWaitSeconds = 0;

  constructor(pool: pg.Pool) {
    this.#pool = pool;
  }

  get stats() {
    return { retries: 0, lockWaitSeconds: this.#lockWaitSeconds };
  }

  async book(request: BookingRequest): Promise<Decision> {
    const connection = await this.#pool.connect();
    try {
      await connection.query("begin");
      const decision = await this.#decide(connection, request);
      // Locking a row writes to the log: committing a refusal would wait for a flush for nothing.
      await connection.query(decision.outcome === "booked" ? "commit" : "rollback");
      connection.release();
      return decision;
    } catch (error) {
      // Closing the connection is the shortest rollback, and the only one that always works.
      connection.release(true);
      throw error;
    }
  }

  async #decide(connection: pg.PoolClient, request: BookingRequest): Promise<Decision> {
    const { id, eventId, userId, quantity, createdAt } = request;
    const asked = performance.now();
    const locked = await connection.query<Omit<Stock, "held">>({ ...LOCK, values: [eventId] });
    this.#lockWaitSeconds += (performance.now() - asked) / 1000;
    const [event] = locked.rows;
    const { rows } = await connection.query<{ held: number }>({ ...HELD, values: [eventId, userId] });
    const refusal = refusalOf(event && { ...event, held: rows[0]?.held ?? 0 }, quantity);
    if (refusal !== undefined) return refusal;
    await connection.query({ ...INSERT, values: [id, eventId, userId, quantity, createdAt] });
    await connection.query({ ...TAKE, values: [eventId, quantity] });
    return { outcome: "booked" };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#pool.end();
  }
}
