/**
 * How old a replica's answers are at most. At each check the node marks how far the primary has written. A replica that has
 * replayed up to a mark has everything that was committed before the mark's moment. Only the node's own clock is read. An
 * idle primary causes no lag. A replica grows older while it hangs, lost its primary, or the primary does not answer.
 */
import type { Clock } from "../../shared/process/clock.ts";
import { type Database, DatabaseError, type Statement } from "../../shared/database/database.ts";

/** Marks kept. A replica that is further behind grows older until it catches up with one of them. */
const MARKS_MAX = 600;

// Only what was flushed is confirmed to anybody, or sent to a replica.
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
  readonly #primary: Database;
  readonly #replica: Database;
  readonly #clock: Clock;
  #marks: Mark[] = [];
  /** The replica has everything that was committed before this moment. */
  #asOf: number;
  #usable = false;
  #caughtUp = false;

  constructor(primary: Database, replica: Database, clock: Clock) {
    this.#primary = primary;
    this.#replica = replica;
    this.#clock = clock;
    this.#asOf = clock.elapsed();
  }

  /** The greatest age of an answer that is asked for now; infinite when the replica must not be asked. */
  get ageMs(): number {
    return this.#usable ? this.#clock.elapsed() - this.#asOf : Number.POSITIVE_INFINITY;
  }

  /** How far the replica is behind, for operators. */
  get lagSeconds(): number {
    return this.#usable && this.#caughtUp ? 0 : (this.#clock.elapsed() - this.#asOf) / 1000;
  }

  /** Call after a failed answer: the replica is asked nothing more until a check succeeds. */
  doubt(): void {
    this.#usable = false;
  }

  /** Asks the primary and then the replica. Skips the replica when the primary has no answer. Throws DatabaseError. */
  async check(): Promise<"skipped" | void> {
    const at = this.#clock.elapsed();
    const position = await this.#flushed();
    if (position === undefined) return "skipped";
    this.#note({ position, at });
    try {
      const [replayed] = await this.#replica.query<{ position: number | null; follows: boolean }>(REPLAYED);
      this.#usable = replayed?.follows === true;
      if (!this.#usable) return undefined;
      const reached = this.#marks.findLast(({ position }) => position <= (replayed?.position ?? -1));
      this.#caughtUp = reached !== undefined && reached.at === at;
      if (reached !== undefined) this.#asOf = Math.max(this.#asOf, reached.at);
      return undefined;
    } catch (error) {
      this.doubt();
      throw error;
    }
  }

  /** How far the primary has written, or undefined when it does not answer. That says nothing about the replica. */
  async #flushed(): Promise<number | undefined> {
    try {
      return (await this.#primary.query<{ position: number }>(FLUSHED))[0]?.position;
    } catch (error) {
      if (error instanceof DatabaseError) return undefined;
      throw error;
    }
  }

  #note(mark: Mark): void {
    // After a failover the new primary may be behind the marks of the old one. Those mean nothing any more.
    this.#marks = this.#marks.filter(({ position }) => position <= mark.position).slice(1 - MARKS_MAX);
    this.#marks.push(mark);
  }
}
