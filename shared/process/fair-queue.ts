/**
 * A bounded queue in which many lines wait and none makes another wait: one event's rush is one line. What is taken comes from
 * all lines in equal shares, and within a line in order of arrival.
 *
 * - A line may be as long as places are free (Choudhury and Hahne, "Dynamic queue length thresholds", 1998). One line takes at
 *   most half of the places, two take a third each, and a new line always finds room.
 * - An item that would wait for longer than `waitMaxMs` is refused at once. How long it would wait follows from how many are
 *   before it and how fast its line was taken from lately (Little's law), and is at least what the first has waited. The wait
 *   of the first alone says too late that a line is too long: at three times what is taken, the last waits three times as long.
 */
import type { Clock } from "./clock.ts";

export interface FairQueueLimits {
  /** Items that may wait in all lines. */
  readonly max: number;
  /** An item that would wait longer is refused. */
  readonly waitMaxMs: number;
}

export interface Queued {
  /** The line. */
  readonly line: number;
  /** By the clock's `elapsed()`. */
  readonly arrived: number;
}

/** How far back the rate of a line looks, as the time constant of an average. */
const RATE_MS = 300;

class Line<Item extends Queued> {
  readonly items: Item[] = [];
  /** Sums that fade: items taken, and the time in which they were. */
  #taken = 0;
  #takenMs = 0;
  #lastTaken: number | undefined;

  take(count: number): Item[] {
    return this.items.splice(0, count);
  }

  /** Counts the items of one turn, in the time since the turn before. */
  noteTaken(count: number, now: number): void {
    if (this.#lastTaken !== undefined) {
      const passed = now - this.#lastTaken;
      const fading = Math.exp(-passed / RATE_MS);
      this.#taken = this.#taken * fading + count;
      this.#takenMs = this.#takenMs * fading + passed;
    }
    this.#lastTaken = now;
  }

  /** What one more item would wait, as far as is known. */
  waitMs(now: number): number {
    const [first] = this.items;
    const expected = this.#taken === 0 ? 0 : (this.items.length * this.#takenMs) / this.#taken;
    return first === undefined ? 0 : Math.max(now - first.arrived, expected);
  }
}

export class FairQueue<Item extends Queued> {
  readonly #limits: FairQueueLimits;
  readonly #clock: Clock;
  /** None is empty. The line that was served last is the last one. */
  readonly #lines = new Map<number, Line<Item>>();
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
    const now = this.#clock.elapsed();
    const known = this.#lines.get(item.line);
    if ((known?.items.length ?? 0) >= max - this.#length) return "full";
    if (known !== undefined && known.waitMs(now) >= waitMaxMs) return "slow";
    const line = known ?? new Line<Item>();
    if (known === undefined) this.#lines.set(item.line, line);
    line.items.push(item);
    this.#length += 1;
    return undefined;
  }

  /** Takes at most `count` items, of lines that may be taken from. */
  take(count: number, mayTake: (line: number) => boolean = () => true): Item[] {
    const served: [number, Line<Item>, before: number][] = [];
    for (const [name, line] of this.#lines) {
      if (served.length >= count) break;
      if (mayTake(name)) served.push([name, line, line.items.length]);
    }
    let open = served;
    const taken: Item[] = [];
    while (open.length > 0 && taken.length < count) {
      const share = Math.max(1, Math.floor((count - taken.length) / open.length));
      for (const [, line] of open)
        for (const item of line.take(Math.min(share, count - taken.length))) taken.push(item);
      open = open.filter(([, { items }]) => items.length > 0);
    }
    const now = this.#clock.elapsed();
    for (const [name, line, before] of served) {
      line.noteTaken(before - line.items.length, now);
      this.#lines.delete(name);
      if (line.items.length > 0) this.#lines.set(name, line);
    }
    this.#length -= taken.length;
    return taken;
  }

  /** Keeps only what is still wanted. */
  keep(isWanted: (item: Item) => boolean): void {
    this.#length = 0;
    for (const [name, { items }] of this.#lines) {
      const kept = items.filter(isWanted);
      items.splice(0, items.length, ...kept);
      if (kept.length === 0) this.#lines.delete(name);
      this.#length += kept.length;
    }
  }
}
