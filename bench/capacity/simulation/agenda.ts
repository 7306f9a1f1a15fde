/**
 * What happens when in a simulation: a binary heap, earliest first, and what is due at the same moment in the order in
 * which it was entered, so that a run can be repeated exactly.
 */
export class Agenda {
  /** In milliseconds since the simulation began. */
  now = 0;
  readonly #heap: Entry[] = [];
  #entered = 0;

  get empty(): boolean {
    return this.#heap.length === 0;
  }

  /** When the next entry is due; infinity when there is none. */
  get nextAt(): number {
    return this.#heap[0]?.at ?? Number.POSITIVE_INFINITY;
  }

  /** Enters what is to be done at `at`, which is not in the past. */
  at(at: number, action: () => void): void {
    this.#entered += 1;
    const heap = this.#heap;
    const entry: Entry = { at, order: this.#entered, action };
    let index = heap.length;
    while (index > 0) {
      const above = (index - 1) >> 1;
      const parent = heap[above] as Entry;
      if (isBefore(parent, entry)) break;
      heap[index] = parent;
      index = above;
    }
    heap[index] = entry;
  }

  /** The same, in so many milliseconds. */
  after(milliseconds: number, action: () => void): void {
    this.at(this.now + milliseconds, action);
  }

  /** Does what is due next. False when there is nothing left. */
  step(): boolean {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined) return false;
    if (heap.length > 0) {
      let index = 0;
      for (;;) {
        const left = 2 * index + 1;
        if (left >= heap.length) break;
        const right = left + 1;
        const below =
          right < heap.length && isBefore(heap[right] as Entry, heap[left] as Entry) ? right : left;
        const child = heap[below] as Entry;
        if (isBefore(last, child)) break;
        heap[index] = child;
        index = below;
      }
      heap[index] = last;
    }
    this.now = first.at;
    first.action();
    return true;
  }
}

interface Entry {
  readonly at: number;
  readonly order: number;
  readonly action: () => void;
}

function isBefore(a: Entry, b: Entry): boolean {
  return a.at < b.at || (a.at === b.at && a.order < b.order);
}
