/** What the benchmark is doing, on stderr: one line that is rewritten on a terminal, a line a step elsewhere. */
export class Progress {
  readonly #live = process.stderr.isTTY;
  #shown = false;

  /** What is true for now. */
  show(line: string): void {
    if (!this.#live) return;
    process.stderr.write(`\r\x1b[K  ${line}`);
    this.#shown = true;
  }

  /** A line that stays. */
  say(line: string): void {
    if (this.#shown) process.stderr.write("\r\x1b[K");
    this.#shown = false;
    process.stderr.write(`${line}\n`);
  }
}
