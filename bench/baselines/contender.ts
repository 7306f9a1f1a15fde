/**
 * What every way of selling tickets looks like to the comparison, onsale's own included: something with a URL that takes
 * bookings, processes whose cost can be counted, and rows that can be audited.
 */

/** A process of the contender, with its children. PostgreSQL is none of them. */
export interface ContenderProcess {
  readonly name: string;
  readonly pid: number;
}

/** Since the start. */
export interface ContenderStats {
  /** Tries after the first, of anything that the strategy repeats. */
  readonly retries: number;
  /** The sum of all waits for locks that the application saw; undefined where it cannot see them. */
  readonly lockWaitSeconds: number | undefined;
}

export interface NewEvent {
  /** A UUID in lower case. */
  readonly id: string;
  readonly totalTickets: number;
  readonly maxPerUser: number;
}

/** Recomputed from rows: never oversold, tickets conserved, no user above the limit. */
export interface ContenderAudit {
  readonly bookings: number;
  /** One line each; empty when all is well. */
  readonly violations: readonly string[];
}

export interface Contender extends AsyncDisposable {
  /** Short, for tables. */
  readonly name: string;
  /** One line that says what it is. */
  readonly title: string;
  /** Without a slash at the end, such as http://127.0.0.1:8080. */
  readonly url: string;
  readonly processes: readonly ContenderProcess[];
  /** Puts events on sale, 10,000 of them quickly. */
  createEvents(events: readonly NewEvent[]): Promise<void>;
  /** Resolves when asynchronous work has arrived in PostgreSQL; at once where there is none. */
  settle(): Promise<void>;
  stats(): Promise<ContenderStats>;
  audit(): Promise<ContenderAudit>;
}
