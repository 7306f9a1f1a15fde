/** Who waits until a shard's changes are in up to a position. */
import type { ShardId } from "../../shared/domain/ids.ts";

interface Waiter {
  readonly shard: ShardId;
  readonly position: number;
  readonly arrived: () => void;
}

export class Arrivals {
  readonly #waitersMax: number;
  readonly #reached = new Map<ShardId, number>();
  readonly #waiters = new Set<Waiter>();

  constructor(waitersMax: number) {
    this.#waitersMax = waitersMax;
  }

  get waiting(): number {
    return this.#waiters.size;
  }

  /** The shard's changes are in up to there. */
  reached(shard: ShardId, position: number): void {
    if (position < (this.#reached.get(shard) ?? 0)) return;
    this.#reached.set(shard, position);
    for (const waiter of this.#waiters)
      if (waiter.shard === shard && waiter.position <= position) waiter.arrived();
  }

  /** Resolves when they are in, or when the time is over. False, at once, when too many wait already. */
  async wait(shard: ShardId, position: number, waitMs: number): Promise<boolean> {
    if ((this.#reached.get(shard) ?? -1) >= position || waitMs === 0) return true;
    if (this.#waiters.size >= this.#waitersMax) return false;
    const { promise, resolve } = Promise.withResolvers<void>();
    const waiter: Waiter = { shard, position, arrived: resolve };
    this.#waiters.add(waiter);
    const timer = setTimeout(resolve, waitMs);
    await promise;
    clearTimeout(timer);
    this.#waiters.delete(waiter);
    return true;
  }
}
