/**
 * What redis-counter loses when its Redis is killed in the middle of a rush (`kill -9`; the machine and its page cache live
 * on, a power cut would take more). Redis is started again on what it left, the counters that it no longer has are loaded
 * from PostgreSQL, and the sale goes on until it is sold out. A booking is lost when its buyer was told "confirmed" and it
 * has not arrived in PostgreSQL when nothing is left to arrive.
 */
import { randomUUIDv7 } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { Pool } from "undici";
import { mintToken } from "../../router/callers/tokens.ts";
import { run } from "./database.ts";
import type { RedisDurability } from "./redis.ts";
import { type BaselineOptions, startBaseline } from "./start.ts";

const TICKETS = 2_000;
const CLIENTS = 64;
const KILLED_AFTER = 500;
/** Refusals that clients get before Redis is started again. */
const SEEN_MEANWHILE = 200;
/** How long a client that got 503 waits before it sends its next booking. */
const PAUSE_MS = 20;
const MAX_MS = 60_000;
const TOKEN_TTL_SECONDS = 3_600;

export interface RedisLoss {
  readonly mode: RedisDurability;
  /** Tickets confirmed to buyers, before and after the kill. There were 2,000. */
  readonly confirmed: number;
  /** Confirmed bookings that are neither in Redis nor in PostgreSQL. */
  readonly lost: number;
  /** Tickets confirmed beyond the 2,000. */
  readonly oversoldAfterRestart: number;
  /** The answers while Redis was away, by status and code. */
  readonly answersMeanwhile: Readonly<Record<string, number>>;
  /** From the kill to the first booking that was confirmed after it. */
  readonly secondsWithoutSales: number;
}

export interface RedisLossOptions extends Pick<
  BaselineOptions,
  "postgresServerUrl" | "secret" | "signal" | "temporaryIn"
> {
  /**
   * The writer hangs, as it does when PostgreSQL hangs, until this many more bookings are confirmed (1,000 at most); then
   * Redis is killed. 0, the default, leaves it alone.
   */
  readonly writerBehind?: number;
}

/** Both modes in turn: nothing kept on disk, which is the default, and a log that is flushed once a second. */
export async function measureRedisLoss(options: RedisLossOptions): Promise<readonly RedisLoss[]> {
  const losses: RedisLoss[] = [];
  for (const mode of ["appendonly no", "appendfsync everysec"] as const)
    losses.push(await measureLoss(mode, options));
  return losses;
}

async function measureLoss(mode: RedisDurability, options: RedisLossOptions): Promise<RedisLoss> {
  const { writerBehind = 0 } = options;
  await using baseline = await startBaseline("redis-counter", { ...options, redisDurability: mode });
  const { redis } = baseline;
  if (redis === undefined) throw new Error("redis-counter has a Redis");
  const event = { id: randomUUIDv7(), totalTickets: TICKETS, maxPerUser: 2 };
  await baseline.createEvents([event]);

  const tokens = await mintTokens(options.secret);
  await using rush = new Rush(baseline.url, event.id, { tokens, signal: options.signal });
  const sold = rush.untilSoldOut();
  sold.catch(() => undefined); // whoever waits below for an answer says why there is none
  await rush.confirmedReach(KILLED_AFTER);
  const writer = baseline.processes.find(({ name }) => name === "writer")?.pid ?? 0;
  if (writerBehind > 0) process.kill(writer, "SIGSTOP");
  await rush.confirmedReach(rush.confirmed.size + writerBehind);
  await redis.kill();
  const killedAt = performance.now();
  if (writerBehind > 0) process.kill(writer, "SIGCONT");
  const answersMeanwhile = await rush.nextAnswers(SEEN_MEANWHILE);
  const sellsAgain = rush.confirmedReach(rush.confirmed.size + 1).then(() => performance.now() - killedAt);
  const [withoutSalesMs] = await Promise.all([sellsAgain, redis.restart()]);
  await sold;

  await baseline.settle();
  const lost = await notIn(baseline.databaseUrl, [...rush.confirmed]);
  return {
    mode,
    confirmed: rush.confirmed.size,
    lost,
    oversoldAfterRestart: Math.max(0, rush.confirmed.size - TICKETS),
    answersMeanwhile,
    secondsWithoutSales: withoutSalesMs / 1000,
  };
}

/** Clients that book one ticket after another, each for the next user. */
class Rush implements AsyncDisposable {
  readonly #http: Pool;
  readonly #path: string;
  readonly #tokens: readonly string[];
  readonly #signal: AbortSignal;
  readonly #over = new AbortController();
  /** Ids of confirmed bookings. */
  readonly confirmed = new Set<string>();
  #sent = 0;
  readonly #waiting = new Set<(answer: string) => void>();

  constructor(url: string, eventId: string, options: { tokens: readonly string[]; signal: AbortSignal }) {
    this.#http = new Pool(url, { connections: CLIENTS });
    this.#path = `/v1/events/${eventId}/bookings`;
    this.#tokens = options.tokens;
    this.#signal = AbortSignal.any([options.signal, AbortSignal.timeout(MAX_MS)]);
  }

  async untilSoldOut(): Promise<void> {
    await Promise.all(
      Array.from({ length: CLIENTS }, async () => {
        for (let answer = ""; answer !== "409 sold_out";) {
          answer = await this.#book();
          for (const heard of this.#waiting) heard(answer);
          if (answer.startsWith("503")) await sleep(PAUSE_MS);
        }
      }),
    );
    this.#over.abort(new Error("the event was sold out before that"));
  }

  /** Resolves when this many bookings are confirmed. */
  async confirmedReach(count: number): Promise<void> {
    await this.#hear(() => this.confirmed.size >= count);
  }

  /** The next answers, by status and code. */
  async nextAnswers(count: number): Promise<Record<string, number>> {
    const answers: Record<string, number> = {};
    let heard = 0;
    await this.#hear((answer) => {
      answers[answer] = (answers[answer] ?? 0) + 1;
      heard += 1;
      return heard >= count;
    });
    return answers;
  }

  async #hear(enough: (answer: string) => boolean): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const heard = (answer: string) => void (enough(answer) && resolve());
    const end = AbortSignal.any([this.#signal, this.#over.signal]);
    end.throwIfAborted();
    const giveUp = () => reject(end.reason as Error);
    this.#waiting.add(heard);
    end.addEventListener("abort", giveUp);
    try {
      await promise;
    } finally {
      this.#waiting.delete(heard);
      end.removeEventListener("abort", giveUp);
    }
  }

  async #book(): Promise<string> {
    const token = this.#tokens[this.#sent % this.#tokens.length] ?? "";
    this.#sent += 1;
    const { statusCode, body } = await this.#http.request({
      method: "POST",
      path: this.#path,
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
      body: '{"quantity":1}',
      signal: this.#signal,
    });
    const { id, code } = (await body.json()) as { id?: string; code?: string };
    if (statusCode === 201 && id !== undefined) this.confirmed.add(id);
    return code === undefined ? String(statusCode) : `${statusCode} ${code}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#http.destroy();
  }
}

/** More users than tickets, because nobody who came before the kill comes again. */
async function mintTokens(secret: string): Promise<string[]> {
  return Promise.all(
    Array.from({ length: 2 * TICKETS }, async (_, index) =>
      mintToken({ secret, sub: `buyer-${index}`, role: "buyer", ttlSeconds: TOKEN_TTL_SECONDS }),
    ),
  );
}

/** Counts the bookings that are missing in the database. */
async function notIn(databaseUrl: string, ids: readonly string[]): Promise<number> {
  const [row] = await run<{ there: number }>(
    databaseUrl,
    "select count(*)::integer as there from bookings where id = any ($1)",
    [ids],
  );
  return ids.length - (row?.there ?? 0);
}
