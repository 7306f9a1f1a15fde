/**
 * An application lock in Redis for each event (Redis manual, "Distributed locks with Redis", single instance): SET NX PX
 * with a random token, released by a script that compares the token. Under it the booking is read, decided and written
 * without row locks. If the lock ends before its holder does, two decide at once: the constraints then still keep the
 * event from being oversold, but nothing keeps the user's limit.
 */
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { Redis } from "ioredis";
import { Refusal } from "../../../shared/database/connection.ts";
import { createPool, type Pool, withConnection } from "../pool.ts";
import {
  type BookingRequest,
  type Decision,
  refusalOf,
  type Stock,
  type Strategy,
  type StrategyModule,
} from "../strategy.ts";

const CONNECTIONS_MAX = 30;
/** Longer than pool and statements may take together (pool.ts), so only a stopped process loses its lock. */
const LOCK_TTL_MS = 15_000;
const WAIT_MAX_MS = 5_000;
/** The pause before the next try for the lock is random within these bounds. */
const PAUSE_MS = { min: 10, max: 120 };
/** PostgreSQL manual, appendix A: check_violation. */
const CHECK_VIOLATION = "23514";

const RELEASE = `
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0`;

const READ = `select available_tickets as "availableTickets", max_per_user as "maxPerUser",
                (select coalesce(sum(quantity), 0)::integer from bookings where event_id = $1 and user_id = $2) as held
         from events where id = $1`;
const WRITE = `with taken as (
           update events set available_tickets = available_tickets - $4 where id = $2 returning id
         )
         insert into bookings (id, event_id, user_id, quantity, created_at)
         select $1, id, $3, $4, $5 from taken`;

interface LockRedis extends Redis {
  releaseLock(keyCount: 1, key: string, token: string): Promise<number>;
}

export const redisLock: StrategyModule = {
  title: "an application lock per event in Redis",
  needs: ["redis-server"],
  schema: "",
  async start({ databaseUrl, redisUrl, connectionsMax = CONNECTIONS_MAX }) {
    const redis = new Redis(redisUrl, { enableAutoPipelining: true }) as LockRedis;
    redis.defineCommand("releaseLock", { lua: RELEASE });
    return new RedisLock(createPool(databaseUrl, connectionsMax), redis);
  },
};

class RedisLock implements Strategy {
  readonly #pool: Pool;
  readonly #redis: LockRedis;
  #retries = 0;
  #lockWaitSeconds = 0;

  constructor(pool: Pool, redis: LockRedis) {
    this.#pool = pool;
    this.#redis = redis;
  }

  get stats() {
    return { retries: this.#retries, lockWaitSeconds: this.#lockWaitSeconds };
  }

  async book(request: BookingRequest): Promise<Decision> {
    const key = `lock:${request.eventId}`;
    const token = randomUUID();
    if (!(await this.#lock(key, token))) return { outcome: "overloaded" };
    try {
      return await this.#decide(request);
    } finally {
      await this.#redis.releaseLock(1, key, token);
    }
  }

  async #lock(key: string, token: string): Promise<boolean> {
    const asked = performance.now();
    const waited = () => performance.now() - asked;
    let locked = false;
    while (!locked && waited() < WAIT_MAX_MS) {
      locked = (await this.#redis.set(key, token, "PX", LOCK_TTL_MS, "NX")) === "OK";
      if (locked) break;
      this.#retries += 1;
      await sleep(PAUSE_MS.min + Math.random() * (PAUSE_MS.max - PAUSE_MS.min));
    }
    this.#lockWaitSeconds += waited() / 1000;
    return locked;
  }

  async #decide({ id, eventId, userId, quantity, createdAt }: BookingRequest): Promise<Decision> {
    try {
      return await withConnection(this.#pool, async (connection) => {
        const [stock] = await connection.run<Stock>(READ, [eventId, userId]);
        const refusal = refusalOf(stock, quantity);
        if (refusal !== undefined) return refusal;
        await connection.run(WRITE, [id, eventId, userId, quantity, createdAt]);
        return { outcome: "booked" };
      });
    } catch (error) {
      // The lock ended too early, and another request took the tickets.
      if (error instanceof Refusal && error.sqlState === CHECK_VIOLATION) return { outcome: "overloaded" };
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#redis.disconnect();
    await this.#pool.close();
  }
}
