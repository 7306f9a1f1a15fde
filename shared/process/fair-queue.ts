/**
 * A bounded queue in which many lines wait and none makes another wait: one event's rush is one line. What is taken comes from
 * all lines in equal shares, and within a line in order of arrival.
 *
 * - A line may be as long as places are free (Choudhury and Hahne, "Dynamic queue length thresholds", 1998). One line takes at
 *   most half of the places, two take a third each, and a new line always finds room.
 * - Once the first of a line has waited for `waitMaxMs`, further ones are refused: they would wait longer. A short rush waits
 *   its turn, and a lasting overload is refused at once, however fast the work goes at that moment.
 */
import type { Clock } from "./clock.ts";

export interface FairQueueLimits {
  /** Items that may wait in all lines. */
  readonly max: number;
  /** The wait of a line's first item from which on the line takes no more. */
  readonly waitMaxMs: number;
}

export interface Queued {
  /** The line. */
  readonly line: number;
  /** By the clock's `elapsed()`. */
  readonly arrived: number;
}

export class FairQueue<Item extends Queued> {
  readonly #limits: FairQueueLimits;
  readonly #clock: Clock;
  /** None is empty. The line that was served last is the last one. */
  readonly #lines = new Map<number, Item[]>();
  #length = 0;

  constructor(limits: FairQueueLimits, clock: Clock) {
    this.#limits = limits;
    this.#clock = clock;
  }

  get length(): number {
    return this.#length;
  }

  /** Returns why the item may not wait here. */
  push(item: Item): "full" | "slow" | undefined {
    const { max, waitMaxMs } = this.#limits;
    const line = this.#lines.get(item.line);
    if ((line?.length ?? 0) >= max - this.#length) return "full";
    const [first] = line ?? [];
    if (first !== undefined && this.#clock.elapsed() - first.arrived >= waitMaxMs) return "slow";
    if (line === undefined) this.#lines.set(item.line, [item]);
    else line.push(item);
    this.#length += 1;
    return undefined;
  }

  /** Takes at most `count` items, of lines that may be taken from. */
  take(count: number, mayTake: (line: number) => boolean = () => true): Item[] {
    let open: [number, Item[]][] = [];
    for (const entry of this.#lines) {
      if (open.length >= count) break;
      if (mayTake(entry[0])) open.push(entry);
    }
    const served = open;
    const taken: Item[] = [];
    while (open.length > 0 && taken.length < count) {
      const share = Math.max(1, Math.floor((count - taken.length) / open.length));
      for (const [, items] of open)
        for (const item of items.splice(0, Math.min(share, count - taken.length))) taken.push(item);
      open = open.filter(([, items]) => items.length > 0);
    }
    for (const [line, items] of served) {
      this.#lines.delete(line);
      if (items.length > 0) this.#lines.set(line, items);
    }
    this.#length -= taken.length;
    return taken;
  }

  /** Keeps only what is still wanted. */
  keep(isWanted: (item: Item) => boolean): void {
    this.#length = 0;
    for (const [line, items] of this.#lines) {
      const kept = items.filter(isWanted);
      if (kept.length === 0) this.#lines.delete(line);
      else this.#lines.set(line, kept);
      this.#length += kept.length;
    }
  }
}
