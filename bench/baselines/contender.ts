/**
 * What every way of selling tickets looks like to the comparison, onsale's own included: something with a URL that takes
 * bookings, processes whose cost can be counted, and rows that can be audited.
 */

/** A process of the contender, PostgreSQL excluded; one that has children counts with its children. */
export interface ContenderProcess {
  readonly name: string;
  readonly pid: number;
}

/** Since the start. */
export interface ContenderStats {
  /** Tries after the first, of whatever the strategy tries again. */
  readonly retries: number;
  /** How long the application saw bookings wait for a lock, all together; undefined where it cannot know. */
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
  /** Puts events on sale; quick for 10,000 of them. */
  createEvents(events: readonly NewEvent[]): Promise<void>;
  /** Resolves when asynchronous work has arrived in PostgreSQL; at once where there is none. */
  settle(): Promise<void>;
  stats(): Promise<ContenderStats>;
  audit(): Promise<ContenderAudit>;
}
