/** An outage of something outside: one log line when it begins and one, of the same level, when it ends; not one for each attempt. */
import type { Log } from "./log.ts";

export class Outage {
  readonly #log: Log;
  readonly #what: string;
  #lasting = false;

  constructor(log: Log, what: string) {
    this.#log = log;
    this.#what = what;
  }

  /** `traceId` is the trace of the request that met the outage, if it has one. */
  failed(error: unknown, traceId?: string): void {
    if (!this.#lasting) this.#log.warn({ reason: String(error), traceId }, `${this.#what} is away`);
    this.#lasting = true;
  }

  worked(): void {
    if (this.#lasting) this.#log.warn(`${this.#what} is back`);
    this.#lasting = false;
  }
}
