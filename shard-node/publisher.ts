/**
 * Carries the newest snapshot of every changed event to Redis, after the commit and off the path of the answer. One flush
 * is under way at a time. An event that changes meanwhile is sent once, at its newest version, with the next flush. After a
 * failed flush its snapshots wait for the next one, so that Redis never keeps an old entry for lack of a new one.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { EventId } from "../shared/domain/ids.ts";
import type { SnapshotStore } from "../shared/redis/redis.ts";
import type { Snapshot } from "../shared/domain/events.ts";

/** Events that may wait. Beyond it the oldest is dropped, and its entry in Redis ends with its time to live. */
const PENDING_MAX = 50_000;
/** Events sent in one call. */
const BATCH_MAX = 200;
/** Pause between two flushes. A hot event changes hundreds of times a second, and readers cannot tell. */
const PAUSE_MS = 10;
const RETRY_MS = 200;

export class EventPublisher {
  readonly #store: Pick<SnapshotStore, "publish">;
  readonly #published: (seconds: number) => void;
  readonly #pending = new Map<EventId, Snapshot>();
  #flushing: Promise<void> | undefined;
  #closed = false;

  /** `published` is told how long each flush took. */
  constructor(store: Pick<SnapshotStore, "publish">, published: (seconds: number) => void) {
    this.#store = store;
    this.#published = published;
  }

  /** Remembers snapshots to publish; returns at once. */
  publish(snapshots: readonly Snapshot[]): void {
    for (const snapshot of snapshots) this.#remember(snapshot);
    if (this.#pending.size > 0 && !this.#closed) this.#flushing ??= this.#flush();
  }

  /** Sends what is pending once more, then stops. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#flushing;
  }

  #remember(snapshot: Snapshot): void {
    const { id, version } = snapshot.event;
    const known = this.#pending.get(id);
    if (known !== undefined && known.event.version >= version) return;
    this.#pending.set(id, snapshot);
    const [oldest] = this.#pending.size > PENDING_MAX ? this.#pending.keys() : [];
    if (oldest !== undefined) this.#pending.delete(oldest);
  }

  async #flush(): Promise<void> {
    while (this.#pending.size > 0) {
      const batch = [...this.#pending.values()].slice(0, BATCH_MAX);
      for (const snapshot of batch) this.#pending.delete(snapshot.event.id);
      const started = performance.now();
      try {
        await this.#store.publish(batch);
        this.#published((performance.now() - started) / 1000);
        if (!this.#closed) await sleep(PAUSE_MS);
      } catch {
        // The connection logs its own loss, once.
        if (this.#closed) break;
        for (const snapshot of batch) this.#remember(snapshot);
        await sleep(RETRY_MS);
      }
    }
    this.#flushing = undefined;
  }
}
