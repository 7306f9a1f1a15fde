/** Something outside that comes and goes: one log line when it is lost and one when it is back, not one per attempt. */
import type { Log } from "./log.ts";

export class Outage {
  readonly #log: Log;
  readonly #what: string;
  #lasting = false;

  constructor(log: Log, what: string) {
    this.#log = log;
    this.#what = what;
  }

  /** `traceId` is the trace that met it, if any did. */
  failed(error: unknown, traceId?: string): void {
    if (!this.#lasting) this.#log.warn({ reason: String(error), traceId }, `${this.#what} is away`);
    this.#lasting = true;
  }

  worked(): void {
    if (this.#lasting) this.#log.info(`${this.#what} is back`);
    this.#lasting = false;
  }
}
