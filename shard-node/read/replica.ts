/**
 * The greatest age of a replica's answers. The node keeps marks: how far the primary had written at which moment. A replica
 * that has replayed up to a mark has everything that was committed before its moment, and so has every later answer. Only
 * the node's own clock counts. An idle primary is no lag; a replica ages while it lost its primary, while its replay is
 * held up, and while its primary does not answer.
 */
import type { Clock } from "../../shared/process/clock.ts";
import type { Database, Statement } from "../../shared/database/database.ts";

/** Marks kept. A lag of up to this many checks is known exactly. */
const MARKS_MAX = 600;

// A confirmed booking is flushed, and a primary sends only what it has flushed.
const FLUSHED: Statement = {
  name: "flushed",
  text: "select pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::float8 as position",
};
const REPLAYED: Statement = {
  name: "replayed",
  text: `
    select pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::float8 as position,
           pg_is_in_recovery() and exists (select from pg_stat_wal_receiver) as follows`,
};

interface Mark {
  readonly position: number;
  /** By the clock's `elapsed()`, before the primary was asked. */
  readonly at: number;
}

export class Replica {
  readonly database: Database;
  readonly #primary: Database;
  readonly #clock: Clock;
  #marks: Mark[] = [];
  /** The replica has everything that was committed before this moment. */
  #asOf: number;
  #usable = false;
  #caughtUp = false;

  constructor(primary: Database, database: Database, clock: Clock) {
    this.database = database;
    this.#primary = primary;
    this.#clock = clock;
    this.#asOf = clock.elapsed();
  }

  /** The greatest age of an answer that is asked for now; infinite while the replica must not be asked. */
  get ageMs(): number {
    return this.#usable ? this.#clock.elapsed() - this.#asOf : Number.POSITIVE_INFINITY;
  }

  /** How far the replica is behind, for operators. */
  get lagSeconds(): number {
    return this.#usable && this.#caughtUp ? 0 : (this.#clock.elapsed() - this.#asOf) / 1000;
  }

  /** A statement failed: the replica is not asked again until a check has reached it. */
  doubt(): void {
    this.#usable = false;
  }

  /** Asks the primary and then the replica. Throws DatabaseError. */
  async check(): Promise<void> {
    const at = this.#clock.elapsed();
    const [written] = await this.#primary.query<{ position: number }>(FLUSHED);
    if (written !== undefined) this.#note({ position: written.position, at });
    try {
      const [replayed] = await this.database.query<{ position: number | null; follows: boolean }>(REPLAYED);
      this.#usable = replayed?.follows === true;
      if (!this.#usable) return;
      const reached = this.#marks.findLast(({ position }) => position <= (replayed?.position ?? -1));
      this.#caughtUp = reached !== undefined && reached.at === at;
      if (reached !== undefined) this.#asOf = Math.max(this.#asOf, reached.at);
    } catch (error) {
      this.doubt();
      throw error;
    }
  }

  #note(mark: Mark): void {
    // After a failover the new primary may be behind what the old one had written. Those marks are void.
    this.#marks = this.#marks.filter(({ position }) => position <= mark.position).slice(1 - MARKS_MAX);
    this.#marks.push(mark);
  }
}
