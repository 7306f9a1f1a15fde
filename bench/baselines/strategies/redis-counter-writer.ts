/**
 * The other half of redis-counter.ts: reads the stream and writes it to PostgreSQL, in batches, exactly once. The position
 * moves in the transaction that writes; what was written is cut off the stream after that, and cutting twice does no harm.
 *
 * When Redis has lost what this process had already read, its counters sell the same tickets again, and PostgreSQL refuses
 * what comes last. Those buyers were told "confirmed" and have no ticket: they are set aside, or nothing would move again.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { Redis } from "ioredis";
import { Refusal } from "../../../shared/database/connection.ts";
import { createPool, type Pool, query } from "../pool.ts";
import { serveParent } from "../service.ts";
import type { BookingRequest } from "../strategy.ts";
import { STREAM } from "./redis-counter.ts";

const BATCH_MAX = 1_000;
/** The pause after a batch that is not full. Fewer, larger batches cost less. */
const GATHER_MS = 50;
const BLOCK_MS = 500;
const RETRY_MS = 50;

/** PostgreSQL manual, appendix A: check_violation. */
const CHECK_VIOLATION = "23514";

const POSITION = "select last_id from writer_position";
const WRITE = `with batch as (
           select * from unnest($1::uuid[], $2::uuid[], $3::text[], $4::smallint[], $5::timestamptz[])
             as b (id, event_id, user_id, quantity, created_at)
         ), added as (
           insert into bookings (id, event_id, user_id, quantity, created_at)
           select id, event_id, user_id, quantity, created_at from batch
         ), moved as (
           update writer_position set last_id = $6
         )
         update events e set available_tickets = e.available_tickets - s.sold
         from (select event_id, sum(quantity) as sold from batch group by event_id) s
         where e.id = s.event_id`;
const SET_ASIDE = `with moved as (update writer_position set last_id = $2) insert into unseated (booking) values ($1)`;

interface Entry {
  readonly id: string;
  readonly booking: BookingRequest;
}

await serveParent(async ({ databaseUrl, redisUrl }) => {
  const pool = createPool(databaseUrl, 1);
  const redis = new Redis(redisUrl, {
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    retryStrategy: (attempt) => Math.min(attempt * 20, 200),
  });
  redis.on("error", () => undefined); // every command says it too
  const stop = new AbortController();
  const writing = writeUntil(stop.signal, redis, pool);
  return {
    stats: { retries: 0, lockWaitSeconds: 0 },
    async [Symbol.asyncDispose]() {
      stop.abort();
      await writing;
      redis.disconnect();
      await pool.close();
    },
  };
});

async function writeUntil(stop: AbortSignal, redis: Redis, pool: Pool): Promise<void> {
  let position: string | undefined;
  while (!stop.aborted) {
    try {
      position ??= (await query<{ last_id: string }>(pool, POSITION))[0]?.last_id ?? "0-0";
      const read = await redis.xread("COUNT", BATCH_MAX, "BLOCK", BLOCK_MS, "STREAMS", STREAM, position);
      const entries = (read?.[0]?.[1] ?? []).map(([id, fields]): Entry => {
        return { id, booking: JSON.parse(fields[1] ?? "") as BookingRequest };
      });
      await write(pool, entries);
      position = entries.at(-1)?.id ?? position;
      await redis.xtrim(STREAM, "MINID", after(position));
      if (entries.length < BATCH_MAX) await sleep(GATHER_MS);
    } catch (error) {
      if (error instanceof Refusal) process.stderr.write(`writer: ${error.message}\n`);
      // Redis or PostgreSQL is away. Whether the batch was written, the position tells.
      position = undefined;
      await sleep(RETRY_MS);
    }
  }
}

async function write(pool: Pool, entries: readonly Entry[]): Promise<void> {
  const last = entries.at(-1);
  if (last === undefined) return;
  const column = <Key extends keyof BookingRequest>(key: Key) => entries.map(({ booking }) => booking[key]);
  const values = [column("id"), column("eventId"), column("userId"), column("quantity"), column("createdAt")];
  try {
    await query(pool, WRITE, [...values, last.id]);
  } catch (error) {
    if (!(error instanceof Refusal && error.sqlState === CHECK_VIOLATION)) throw error;
    if (entries.length > 1) for (const entry of entries) await write(pool, [entry]);
    else await query(pool, SET_ASIDE, [last.booking, last.id]);
  }
}

/** The id after this one, because trimming keeps the id that it is given. */
function after(id: string): string {
  const [time = "0", sequence = "0"] = id.split("-");
  return `${time}-${BigInt(sequence) + 1n}`;
}
