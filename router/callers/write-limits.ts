/**
 * Limits of the writes in each second, per user and per client address. They keep one user or one address from taking what all
 * need; honest users never reach them. An organizer's limit is wider than a buyer's, because organizers import events. Operators
 * have none: they cancel bookings by the thousand.
 *
 * In a rush nearly every write is the first of its user in this second, so it must cost next to nothing. A table of counters
 * admits it: each key has a place by its hash, and a write passes while the counter there is below a quarter of the limit. The
 * table has a fixed size, so two keys may share a place. Then exact counting begins earlier than it must. That costs time; no limit changes.
 *
 * rate-limiter-flexible counts the writes beyond the quarter exactly. It decides in memory, without I/O. Afterwards Redis adds
 * up what all routers admitted; when the sum reaches the limit, memory blocks the key. So no write waits for Redis, and without
 * Redis each router keeps the limits by itself. (The library's `insuranceLimiter` would ask memory only after Redis failed to
 * answer in time: docs/decisions/0014-write-limits.md.)
 *
 * N routers admit of one key in a second at most the limit and (N - 1) quarters of it; without Redis N times the limit.
 */
import { RateLimiterMemory, RateLimiterRedis, RateLimiterRes } from "rate-limiter-flexible";
import type { Clock } from "../../shared/process/clock.ts";
import type { Log } from "../../shared/process/log.ts";
import { HASH_TAG, RedisConnection, type RedisFailure } from "../../shared/redis/redis.ts";
import type { Caller } from "./tokens.ts";

const WINDOW_SECONDS = 1;
/** The share of a limit that is admitted before a key is counted exactly. */
const UNCOUNTED_SHARE = 1 / 4;
/** Several times the writes of a router in a second, so that few keys share a place. A power of two. */
const PLACES = 65_536;

/** Why a write is refused with `429 rate_limited`. */
export interface Limited {
  readonly reason: "user" | "organizer" | "address";
  /** RFC 9110 §10.2.3 and draft-ietf-httpapi-ratelimit-headers: no write remains until the next second. */
  readonly headers: {
    readonly "retry-after": string;
    readonly ratelimit: string;
    readonly "ratelimit-policy": string;
  };
}

/** undefined admits the write. A promise only when the write is counted exactly; it never waits for I/O. */
export type Admission = Limited | undefined | Promise<Limited | undefined>;

export interface WriteLimits {
  /** Counts one write. `address` is the client's (client-address.ts). */
  admit(caller: Caller, address: string | undefined): Admission;
  close(): void;
}

export interface WriteLimitSettings {
  /** Writes in a second; 0 is no limit. A user is a buyer. */
  readonly perUser: number;
  readonly perOrganizer: number;
  readonly perAddress: number;
  /** The Redis where all routers count together. */
  readonly redisUrl?: string | undefined;
}

export function createWriteLimits(
  { perUser, perOrganizer, perAddress, redisUrl }: WriteLimitSettings,
  clock: Clock,
  log: Log,
  redisFailed: (reason: RedisFailure) => void,
): WriteLimits {
  const on = perUser > 0 || perOrganizer > 0 || perAddress > 0;
  const redis =
    on && redisUrl !== undefined
      ? new RedisConnection(redisUrl, log, "each router limits writes by itself", redisFailed)
      : undefined;
  const limit = (reason: Limited["reason"], max: number): Limit | undefined =>
    max > 0 ? new Limit(reason, max, clock, redis) : undefined;
  const users = { buyer: limit("user", perUser), organizer: limit("organizer", perOrganizer) };
  const addresses = limit("address", perAddress);
  const admitAddress = (address: string | undefined): Admission =>
    address === undefined ? undefined : addresses?.admit(address);
  return {
    admit({ userId, role }, address) {
      if (role === "operator") return undefined;
      const limited = users[role]?.admit(userId);
      // A refused user takes nothing from the limit of the address.
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
              keyPrefix: `${HASH_TAG}:1:writes:${reason}`,
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
    void this.#countInRedis(key);
    return undefined;
  }

  async #countInRedis(key: string): Promise<void> {
    if (this.#everywhere?.redis.up !== true) return;
    const { limiter, redis } = this.#everywhere;
    try {
      const refused = await redis.timed(
        "write",
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
      // RedisConnection logs this and pauses.
    }
  }
}

/** FNV-1a. An attacker who finds keys that share a place only has other keys counted exactly. */
function placeOf(key: string): number {
  let hash = 0x811c9dc5;
  for (let at = 0; at < key.length; at += 1) hash = Math.imul(hash ^ key.charCodeAt(at), 0x01000193);
  return (hash ^ (hash >>> 16)) & (PLACES - 1);
}
