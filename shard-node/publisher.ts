/**
 * Carries the newest snapshot of every changed event to Redis, after the commit and off the path of the answer. One
 * flush is under way at a time; an event that changes meanwhile is sent once, at its newest version, with the next. What could
 * not be sent stays until it can be (at most `pendingMax` events): an entry that Redis kept from before is corrected.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { EventId } from "../shared/domain/ids.ts";
import type { SnapshotStore } from "../shared/redis/redis.ts";
import type { Snapshot } from "../shared/domain/events.ts";

export interface PublisherOptions {
  /** Events that may wait; beyond it the oldest is dropped, and its entry in Redis ends with its time to live. */
  readonly pendingMax: number;
  /** Events sent in one call. */
  readonly batchMax: number;
  /** Pause between two flushes; a hot event changes hundreds of times a second and readers cannot tell. */
  readonly pauseMs: number;
  /** Pause after a failed flush. */
  readonly retryMs: number;
  readonly published: (seconds: number) => void;
}

export class EventPublisher {
  readonly #store: Pick<SnapshotStore, "publish">;
  readonly #options: PublisherOptions;
  readonly #pending = new Map<EventId, Snapshot>();
  #flushing: Promise<void> | undefined;
  #closed = false;

  constructor(store: Pick<SnapshotStore, "publish">, options: PublisherOptions) {
    this.#store = store;
    this.#options = options;
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
    if (this.#pending.size <= this.#options.pendingMax) return;
    for (const oldest of this.#pending.keys()) {
      this.#pending.delete(oldest);
      break;
    }
  }

  async #flush(): Promise<void> {
    while (this.#pending.size > 0) {
      const batch = [...this.#pending.values()].slice(0, this.#options.batchMax);
      for (const snapshot of batch) this.#pending.delete(snapshot.event.id);
      const started = performance.now();
      try {
        await this.#store.publish(batch);
        this.#options.published((performance.now() - started) / 1000);
        if (!this.#closed) await sleep(this.#options.pauseMs);
      } catch {
        // The connection logs its own loss, once.
        if (this.#closed) break;
        for (const snapshot of batch) this.#remember(snapshot);
        await sleep(this.#options.retryMs);
      }
    }
    this.#flushing = undefined;
  }
}
