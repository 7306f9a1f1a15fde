/**
 * Limits of what buyers write each second, per user and per client address. They keep one user or one address from taking
 * what all need, and honest buyers never reach them. Organizers and operators are trusted and not limited: they import
 * events and cancel bookings by the thousand.
 *
 * In a rush nearly every write is the first of its user in this second, so admitting it must cost next to nothing. A table of
 * counters does that: a key counts at the place of its hash, and a write is admitted while its place shows less than a
 * quarter of the limit. The table has a fixed size, so keys may share a place. Then the counter is too high, and such a key
 * is counted exactly sooner than it need be.
 *
 * rate-limiter-flexible counts exactly what goes beyond the quarter. Its memory decides, without I/O. Redis is told
 * afterwards of what memory admitted, and knows what other routers admitted; when Redis says that the limit is reached,
 * memory blocks the key. So no write waits for Redis, and without Redis each router holds the limits by itself. (The
 * library's own `insuranceLimiter` asks memory only after Redis failed to answer in time: docs/decisions/0014-write-limits.md.)
 *
 * What N routers admit of one key in a second: the limit and (N - 1) quarters of it; without Redis N times the limit.
 */
import { RateLimiterMemory, RateLimiterRedis, RateLimiterRes } from "rate-limiter-flexible";
import type { Clock } from "../../shared/process/clock.ts";
import type { Log } from "../../shared/process/log.ts";
import { RedisConnection } from "../../shared/redis/redis.ts";
import type { Caller } from "./tokens.ts";

const WINDOW_SECONDS = 1;
/** The share of a limit that is admitted before a key is counted exactly. */
const UNCOUNTED_SHARE = 1 / 4;
/** Several times the writes that a router can do in a second, so that few keys share a place. A power of two. */
const PLACES = 65_536;

/** A write that must be answered by `429 rate_limited`. */
export interface Limited {
  readonly reason: "user" | "address";
  /** RFC 9110 §10.2.3, and draft-ietf-httpapi-ratelimit-headers: nothing remains, more does within a second. */
  readonly headers: {
    readonly "retry-after": string;
    readonly ratelimit: string;
    readonly "ratelimit-policy": string;
  };
}

/** undefined: go on. A promise only for a key that is counted exactly; memory settles it, never I/O. */
export type Admission = Limited | undefined | Promise<Limited | undefined>;

export interface WriteLimits {
  /** Counts one write. `address` is the client's, where it is known (client-address.ts). */
  admit(caller: Caller, address: string | undefined): Admission;
  close(): void;
}

export interface WriteLimitSettings {
  /** Writes a second; 0 is no limit. */
  readonly perUser: number;
  readonly perAddress: number;
  /** Where all routers count together. */
  readonly redisUrl?: string | undefined;
}

export function createWriteLimits(
  { perUser, perAddress, redisUrl }: WriteLimitSettings,
  clock: Clock,
  log: Log,
): WriteLimits {
  const on = perUser > 0 || perAddress > 0;
  const redis =
    on && redisUrl !== undefined
      ? new RedisConnection(redisUrl, log, "each router limits writes by itself")
      : undefined;
  const users = perUser > 0 ? new Limit("user", perUser, clock, redis) : undefined;
  const addresses = perAddress > 0 ? new Limit("address", perAddress, clock, redis) : undefined;
  const admitAddress = (address: string | undefined): Admission =>
    address === undefined ? undefined : addresses?.admit(address);
  return {
    admit({ userId, role }, address) {
      if (role !== "buyer") return undefined;
      const limited = users?.admit(userId);
      // Who is refused as a user does not use up what is left to the others of that address.
      if (limited === undefined) return admitAddress(address);
      return limited instanceof Promise ? limited.then((known) => known ?? admitAddress(address)) : limited;
    },
    close: () => redis?.close(),
  };
}

class Limit {
  readonly #clock: Clock;
  readonly #limited: Limited;
  readonly #uncounted: number;
  readonly #counters = new Uint16Array(PLACES);
  #windowEnds = 0;
  readonly #here: RateLimiterMemory;
  readonly #everywhere: { limiter: RateLimiterRedis; redis: RedisConnection } | undefined;

  constructor(reason: Limited["reason"], max: number, clock: Clock, redis: RedisConnection | undefined) {
    this.#clock = clock;
    this.#limited = Object.freeze({
      reason,
      headers: Object.freeze({
        "retry-after": String(WINDOW_SECONDS),
        ratelimit: `"${reason}";r=0;t=${WINDOW_SECONDS}`,
        "ratelimit-policy": `"${reason}";q=${max};w=${WINDOW_SECONDS}`,
      }),
    });
    this.#uncounted = Math.floor(max * UNCOUNTED_SHARE);
    const counted = { points: max - this.#uncounted, duration: WINDOW_SECONDS };
    this.#here = new RateLimiterMemory(counted);
    this.#everywhere =
      redis === undefined
        ? undefined
        : {
            limiter: new RateLimiterRedis({
              ...counted,
              storeClient: redis.client,
              keyPrefix: `onsale:1:writes:${reason}`,
            }),
            redis,
          };
  }

  admit(key: string): Admission {
    const now = this.#clock.elapsed();
    if (now >= this.#windowEnds) {
      this.#counters.fill(0);
      this.#windowEnds = now + WINDOW_SECONDS * 1000;
    }
    const place = placeOf(key);
    const count = this.#counters[place] ?? 0;
    if (count >= this.#uncounted) return this.#admitCounted(key);
    this.#counters[place] = count + 1;
    return undefined;
  }

  async #admitCounted(key: string): Promise<Limited | undefined> {
    try {
      await this.#here.consume(key);
    } catch (refused) {
      if (refused instanceof RateLimiterRes) return this.#limited;
      throw refused;
    }
    void this.#tellOthers(key);
    return undefined;
  }

  async #tellOthers(key: string): Promise<void> {
    if (this.#everywhere?.redis.up !== true) return;
    const { limiter, redis } = this.#everywhere;
    try {
      const refused = await redis.timed(
        limiter.consume(key).then(
          () => undefined,
          (error: unknown) => {
            if (error instanceof RateLimiterRes) return error;
            throw error;
          },
        ),
      );
      if (refused !== undefined && refused.msBeforeNext > 0)
        await this.#here.block(key, refused.msBeforeNext / 1000);
    } catch {
      // The connection has said so in the log, and is left alone for a moment.
    }
  }
}

/** FNV-1a. Whoever finds keys that share a place makes others be counted exactly, and no more than that. */
function placeOf(key: string): number {
  let hash = 0x811c9dc5;
  for (let at = 0; at < key.length; at += 1) hash = Math.imul(hash ^ key.charCodeAt(at), 0x01000193);
  return (hash ^ (hash >>> 16)) & (PLACES - 1);
}
