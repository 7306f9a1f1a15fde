/**
 * What the benchmark is doing, on stderr: one line that is rewritten on a terminal, elsewhere a line now and then. It
 * knows the parts of the run, so each line says which of them it is and about how long the rest will take.
 */

export interface PlannedPart {
  readonly name: string;
  readonly estimatedSeconds: number;
}

/** How often such a line goes into a log, where it stays. */
const LOGGED_EVERY_MS = 10_000;

export class Progress {
  readonly #live = process.stderr.isTTY;
  readonly #parts: readonly PlannedPart[];
  #part = -1;
  #partStarted = 0;
  #shown = false;
  #loggedAt = 0;

  constructor(parts: readonly PlannedPart[] = []) {
    this.#parts = parts;
  }

  /** The next part begins. */
  nextPart(): void {
    this.#part += 1;
    this.#partStarted = performance.now();
    this.say(`${this.#where()} ${this.#parts[this.#part]?.name ?? ""}, ${this.#remaining()}`);
  }

  /** Shows a line until the next one. */
  show(line: string): void {
    if (this.#live) {
      process.stderr.write(`\r\x1b[K  ${this.#where()} ${line} (${this.#remaining()})`);
      this.#shown = true;
    } else if (performance.now() - this.#loggedAt > LOGGED_EVERY_MS) {
      this.say(`  ${line} (${this.#remaining()})`);
    }
  }

  /** A line that stays. */
  say(line: string): void {
    if (this.#shown) process.stderr.write("\r\x1b[K");
    this.#shown = false;
    this.#loggedAt = performance.now();
    process.stderr.write(`${line}\n`);
  }

  #where(): string {
    return `[${this.#part + 1}/${this.#parts.length}]`;
  }

  #remaining(): string {
    const [current, ...next] = this.#parts.slice(Math.max(0, this.#part));
    const passed = (performance.now() - this.#partStarted) / 1000;
    const ofCurrent = Math.max(0, (current?.estimatedSeconds ?? 0) - passed);
    const seconds = next.reduce((sum, { estimatedSeconds }) => sum + estimatedSeconds, ofCurrent);
    return seconds < 90
      ? `about ${Math.ceil(seconds / 5) * 5} s left`
      : `about ${Math.ceil(seconds / 60)} min left`;
  }
}
