/**
 * Limits of what buyers write, per user and per client address, each second. They keep one from taking what all need; no
 * honest buyer meets them. Organizers and operators are trusted, and import or cancel by the thousand.
 *
 * Nearly every write of a rush is the first of its user in this second, so that case must cost next to nothing. It is told
 * by a table of counters with a fixed size: a key counts at the place of its hash. Several keys may share a place, so its
 * counter says only who need not be asked about. Who writes more than a quarter of the limit within a second is counted
 * exactly, by rate-limiter-flexible: in memory, which decides, and then in Redis, which knows what other routers
 * admitted. When Redis says that the limit is reached, memory blocks the key.
 *
 * No request waits for Redis, so a Redis that hangs delays no booking, and without it each router holds the limits by
 * itself. (`insuranceLimiter`, the library's own way, asks memory only after Redis has failed to answer in time.)
 *
 * What N routers admit of one key in a second: the limit and (N - 1) quarters of it; without Redis N times the limit.
 */
import { RateLimiterMemory, RateLimiterRedis, RateLimiterRes } from "rate-limiter-flexible";
import type { Clock } from "../../shared/clock.ts";
import type { Log } from "../../shared/log.ts";
import { RedisConnection } from "../../shared/redis.ts";
import type { Caller } from "../../shared/tokens.ts";

const WINDOW_SECONDS = 1;
/** Where nobody is asked about: the share of a limit that is admitted before a key is counted exactly. */
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

/** undefined: go on. A promise of it, settled by memory and never by I/O, only for who has written much just now. */
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
