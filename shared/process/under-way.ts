/** Counts what is under way of each key, up to a bound, so that nobody takes the places of all. */
export class UnderWay {
  readonly #max: number;
  readonly #counts = new Map<string, number>();

  constructor(max: number) {
    this.#max = max;
  }

  /** Returns false when the key has as many under way as it may. Else the caller calls `leave` once, at the end. */
  enter(key: string): boolean {
    const count = this.#counts.get(key) ?? 0;
    if (count >= this.#max) return false;
    this.#counts.set(key, count + 1);
    return true;
  }

  leave(key: string): void {
    const count = this.#counts.get(key) ?? 0;
    if (count > 1) this.#counts.set(key, count - 1);
    else this.#counts.delete(key);
  }
}

/** Places for what is under way: of one user, and of all together. */
export class Places {
  readonly #ofUser: UnderWay;
  readonly #ofAll: UnderWay;

  constructor(ofUserMax: number, ofAllMax: number) {
    this.#ofUser = new UnderWay(ofUserMax);
    this.#ofAll = new UnderWay(ofAllMax);
  }

  /** Returns whose places are all taken. Undefined when there was one, which the caller gives back once with `leave`. */
  enter(user: string): "user" | "all" | undefined {
    if (!this.#ofUser.enter(user)) return "user";
    if (this.#ofAll.enter("all")) return undefined;
    this.#ofUser.leave(user);
    return "all";
  }

  leave(user: string): void {
    this.#ofUser.leave(user);
    this.#ofAll.leave("all");
  }
}
