/**
 * Redis decides and PostgreSQL follows. A script takes the tickets from counters and appends the booking to a stream, and
 * the client has its answer at once; another process (redis-counter-writer.ts) carries the stream to PostgreSQL. What was
 * confirmed is as durable as Redis is: redis-loss.ts measures what a Redis that dies takes with it.
 *
 * `event:{id}` is a hash: `available`, `maxPerUser`, and `user:{id}`, how many tickets each user has. An event that Redis
 * does not know is loaded from PostgreSQL, also after Redis has lost its memory.
 */
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { Redis } from "ioredis";
import { createPool, type Pool, query } from "../pool.ts";
import type { BookingRequest, Decision, Strategy, StrategyModule } from "../strategy.ts";

/** Bookings on their way to PostgreSQL: each entry has one field, a BookingRequest as JSON. */
export const STREAM = "bookings";

/** They are used only to load events. */
const CONNECTIONS_MAX = 2;
const EVENTS_LOADED_AT_ONCE = 1_000;
const SETTLE_POLL_MS = 10;
const SETTLE_MAX_MS = 60_000;

const BOOK = `
local state = redis.call('HMGET', KEYS[1], 'available', 'maxPerUser', ARGV[1])
if not state[1] then return {'event_unknown', 0, 0} end
local available, max, held, wanted = tonumber(state[1]), tonumber(state[2]), tonumber(state[3] or '0'), tonumber(ARGV[2])
if available == 0 then return {'sold_out', 0, 0} end
if held + wanted > max then return {'user_limit_exceeded', max, held} end
if available < wanted then return {'insufficient_tickets', available, 0} end
redis.call('HINCRBY', KEYS[1], 'available', -wanted)
redis.call('HINCRBY', KEYS[1], ARGV[1], wanted)
redis.call('XADD', KEYS[2], '*', 'booking', ARGV[3])
return {'booked', 0, 0}`;

type ScriptAnswer = [
  outcome: "booked" | "event_unknown" | "sold_out" | "user_limit_exceeded" | "insufficient_tickets",
  availableOrMax: number,
  held: number,
];

interface CounterRedis extends Redis {
  book(
    keyCount: 2,
    event: string,
    stream: string,
    user: string,
    quantity: number,
    booking: string,
  ): Promise<ScriptAnswer>;
}

const EVENTS = `select id, available_tickets as available, max_per_user as "maxPerUser" from events where id = any ($1)`;
const HELD = `select event_id as id, user_id as "userId", sum(quantity)::integer as held
         from bookings where event_id = any ($1) group by event_id, user_id`;

export const redisCounter: StrategyModule = {
  title: "Redis decides by a Lua script, PostgreSQL is written behind",
  needs: ["redis-server"],
  // How far the stream has been written. It moves in the transaction that writes, so nothing is written twice.
  schema: `create table writer_position (last_id text not null);
           insert into writer_position values ('0-0');
           create table unseated (booking jsonb not null)`,
  worker: { name: "writer", script: "redis-counter-writer.ts" },
  async start({ databaseUrl, redisUrl, connectionsMax = CONNECTIONS_MAX }) {
    const redis = new Redis(redisUrl, {
      enableAutoPipelining: true,
      // A command whose answer was lost may have taken effect. Sent again, it would book twice.
      autoResendUnfulfilledCommands: false,
      enableOfflineQueue: false,
      maxRetriesPerRequest: 0,
      commandTimeout: 2_000,
      retryStrategy: (attempt) => Math.min(attempt * 20, 200),
    }) as CounterRedis;
    redis.on("error", () => undefined); // every command says it too
    redis.defineCommand("book", { lua: BOOK });
    await once(redis, "ready");
    return new RedisCounter(createPool(databaseUrl, connectionsMax), redis);
  },
};

class RedisCounter implements Strategy {
  readonly #pool: Pool;
  readonly #redis: CounterRedis;
  /** Loads under way. However many ask for an event, it is loaded once. */
  readonly #loading = new Map<string, Promise<void>>();
  readonly stats = { retries: 0, lockWaitSeconds: 0 };

  constructor(pool: Pool, redis: CounterRedis) {
    this.#pool = pool;
    this.#redis = redis;
  }

  async book(request: BookingRequest): Promise<Decision> {
    if (this.#redis.status !== "ready") return { outcome: "overloaded" };
    try {
      const [outcome, number, held] = await this.#decide(request);
      switch (outcome) {
        case "event_unknown":
          return { outcome: "event_not_found" };
        case "user_limit_exceeded":
          return { outcome, maxPerUser: number, held };
        case "insufficient_tickets":
          return { outcome, availableTickets: number };
        case "booked":
        case "sold_out":
          return { outcome };
      }
    } catch {
      return { outcome: "outcome_unknown" };
    }
  }

  async #decide(request: BookingRequest): Promise<ScriptAnswer> {
    const { eventId, userId, quantity } = request;
    const booking = JSON.stringify(request);
    const ask = async () =>
      this.#redis.book(2, `event:${eventId}`, STREAM, `user:${userId}`, quantity, booking);
    const answer = await ask();
    if (answer[0] !== "event_unknown") return answer;
    let loading = this.#loading.get(eventId);
    if (loading === undefined) {
      loading = this.#load([eventId]).finally(() => this.#loading.delete(eventId));
      this.#loading.set(eventId, loading);
    }
    await loading;
    return ask();
  }

  async created(eventIds: readonly string[]): Promise<void> {
    for (let from = 0; from < eventIds.length; from += EVENTS_LOADED_AT_ONCE)
      await this.#load(eventIds.slice(from, from + EVENTS_LOADED_AT_ONCE));
  }

  /** Each hash is made under a temporary name. It is renamed when it is whole, unless another load was faster. */
  async #load(eventIds: readonly string[]): Promise<void> {
    const events = await query<{ id: string; available: number; maxPerUser: number }>(this.#pool, EVENTS, [
      eventIds,
    ]);
    const users = await query<{ id: string; userId: string; held: number }>(this.#pool, HELD, [eventIds]);
    const pipeline = this.#redis.pipeline();
    const drafts = new Map<string, string>();
    for (const { id, available, maxPerUser } of events) {
      const draft = `draft:${randomUUID()}`;
      drafts.set(id, draft);
      pipeline.hset(draft, { available, maxPerUser });
    }
    for (const { id, userId, held } of users) pipeline.hset(drafts.get(id) ?? "", `user:${userId}`, held);
    for (const [id, draft] of drafts) pipeline.renamenx(draft, `event:${id}`).del(draft);
    for (const [error] of (await pipeline.exec()) ?? []) if (error !== null) throw error;
  }

  async settle(): Promise<void> {
    const deadline = performance.now() + SETTLE_MAX_MS;
    for (let left = await this.#redis.xlen(STREAM); left > 0; left = await this.#redis.xlen(STREAM)) {
      if (performance.now() > deadline)
        throw new Error(`${left} bookings did not reach PostgreSQL within ${SETTLE_MAX_MS / 1000} s`);
      await sleep(SETTLE_POLL_MS);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#redis.disconnect();
    await this.#pool.close();
  }
}
