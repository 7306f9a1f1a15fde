/**
 * Carries the newest snapshot of every changed event to Redis, after the commit and off the path of the answer. One flush
 * is under way at a time. An event that changes meanwhile is sent once, at its newest version, with the next flush. After a
 * failed flush its snapshots wait for the next one, so that Redis never keeps an old entry for lack of a new one. By the time
 * that a snapshot is given up, whatever Redis had of its event has ended.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Snapshot } from "../shared/domain/events.ts";
import type { EventId } from "../shared/domain/ids.ts";
import type { Clock } from "../shared/process/clock.ts";
import { ENTRY_TTL_MS, type SnapshotStore } from "../shared/redis/redis.ts";

/** Events that may wait. Beyond it the oldest is dropped, and its entry in Redis ends with its time to live. */
const PENDING_MAX = 50_000;
/**
 * How long a snapshot is tried. Twice the life of an entry, because a router may have filled Redis from a replica that was
 * still a little behind.
 */
const PENDING_MAX_MS = 2 * ENTRY_TTL_MS;
/** Events sent in one call. */
const BATCH_MAX = 200;
/** Pause between two flushes. A hot event changes hundreds of times a second, and readers cannot tell. */
const PAUSE_MS = 10;
const RETRY_MS = 200;

export interface PublisherMetrics {
  /** How long a flush took. */
  published(seconds: number): void;
  dropped(reason: "too_old" | "queue_full", events: number): void;
}

interface Pending {
  readonly snapshot: Snapshot;
  /** When this version came here, by `elapsed()`. */
  readonly since: number;
}

export class EventPublisher {
  readonly #store: Pick<SnapshotStore, "publish">;
  readonly #clock: Clock;
  readonly #metrics: PublisherMetrics;
  readonly #pending = new Map<EventId, Pending>();
  #flushing: Promise<void> | undefined;
  #closed = false;

  constructor(store: Pick<SnapshotStore, "publish">, clock: Clock, metrics: PublisherMetrics) {
    this.#store = store;
    this.#clock = clock;
    this.#metrics = metrics;
  }

  /** Remembers snapshots to publish; returns at once. */
  publish(snapshots: readonly Snapshot[]): void {
    const since = this.#clock.elapsed();
    for (const snapshot of snapshots) this.#remember({ snapshot, since });
    if (this.#pending.size > 0 && !this.#closed) this.#flushing ??= this.#flush();
  }

  /** Sends what is pending once more, then stops. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#flushing;
  }

  #remember(pending: Pending): void {
    const { id, version } = pending.snapshot.event;
    const known = this.#pending.get(id)?.snapshot.event.version;
    if (known !== undefined && known >= version) return;
    this.#pending.set(id, pending);
    const [oldest] = this.#pending.size > PENDING_MAX ? this.#pending.keys() : [];
    if (oldest === undefined) return;
    this.#pending.delete(oldest);
    this.#metrics.dropped("queue_full", 1);
  }

  async #flush(): Promise<void> {
    while (this.#pending.size > 0) {
      const batch = [...this.#pending.values()].slice(0, BATCH_MAX);
      for (const { snapshot } of batch) this.#pending.delete(snapshot.event.id);
      const started = performance.now();
      try {
        await this.#store.publish(batch.map(({ snapshot }) => snapshot));
        this.#metrics.published((performance.now() - started) / 1000);
        if (!this.#closed) await sleep(PAUSE_MS);
      } catch {
        // The connection logs why, once.
        if (this.#closed) break;
        for (const pending of batch) this.#remember(pending);
        this.#dropOld();
        await sleep(RETRY_MS);
      }
    }
    this.#flushing = undefined;
  }

  #dropOld(): void {
    const before = this.#pending.size;
    const oldest = this.#clock.elapsed() - PENDING_MAX_MS;
    for (const [id, { since }] of this.#pending) if (since < oldest) this.#pending.delete(id);
    if (this.#pending.size < before) this.#metrics.dropped("too_old", before - this.#pending.size);
  }
}
