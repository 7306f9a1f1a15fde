/**
 * Changes of events, one after another for each event. They share connections with reads, and an event whose row somebody else
 * has locked must not keep these (L4): a change waits for the lock for a moment only, and after that the event rests.
 */
import { LRUCache } from "lru-cache";
import { DatabaseError, LOCK_NOT_AVAILABLE } from "../../shared/database/faults.ts";
import type { EventId } from "../../shared/domain/ids.ts";
import type { Clock } from "../../shared/process/clock.ts";
import type { EventResult } from "../../shared/wire/rpc.ts";

/** So long a batch in front of a change may take. */
export const CHANGE_LOCK_WAIT_MS = 300;
/** How long changes of an event are refused after its lock was not had. */
const CHANGE_REST_MS = 1_000;
/** Events whose rest is remembered. */
const RESTING_MAX = 1_000;

export class EventChanges {
  readonly #refused: () => void;
  /** Resolves when the newest change of the event has ended. Routers bound how many wait (DIRECT_MAX). */
  readonly #newest = new Map<EventId, Promise<void>>();
  readonly #resting: LRUCache<EventId, true>;

  /** `refused` hears of each change that was not made because of the lock. */
  constructor(clock: Clock, refused: () => void) {
    const perf = { now: () => clock.elapsed() };
    this.#resting = new LRUCache({ max: RESTING_MAX, ttl: CHANGE_REST_MS, ttlResolution: 0, perf });
    this.#refused = refused;
  }

  /** Runs `change` after those of the same event, unless the event rests. Throws what `change` throws otherwise. */
  async run(event: EventId, change: () => Promise<EventResult>): Promise<EventResult> {
    const before = this.#newest.get(event);
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#newest.set(event, promise);
    try {
      await before;
      if (!this.#resting.has(event)) return await change();
    } catch (error) {
      if (!(error instanceof DatabaseError && error.sqlState === LOCK_NOT_AVAILABLE)) throw error;
      this.#resting.set(event, true);
    } finally {
      resolve();
      if (this.#newest.get(event) === promise) this.#newest.delete(event);
    }
    this.#refused();
    return { outcome: "overloaded" };
  }
}
