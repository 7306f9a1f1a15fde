/**
 * How old a replica's answers are at most. The node notes again and again how far the primary had written at which moment.
 * A replica that has replayed that far has everything that was committed before that moment, and so has each of its later
 * answers. No clock but the node's own is asked, and none of the comfortable lies is possible: an idle primary is no lag, a
 * replica that lost its primary or is held up ages with every moment, and so does one whose primary does not answer.
 */
import type { Clock } from "../../shared/process/clock.ts";
import type { Database, Statement } from "../../shared/database/database.ts";

/** Marks kept: a lag up to this many checks is told exactly, a longer one as longer. */
const MARKS_MAX = 600;

// What was confirmed is flushed, and a replica is sent nothing else.
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
  /** Everything committed before this moment is there. */
  #asOf: number;
  #usable = false;
  #caughtUp = false;

  constructor(primary: Database, database: Database, clock: Clock) {
    this.database = database;
    this.#primary = primary;
    this.#clock = clock;
    this.#asOf = clock.elapsed();
  }

  /** At most how old an answer is that is asked for now; infinite when none may be asked for. */
  get ageMs(): number {
    return this.#usable ? this.#clock.elapsed() - this.#asOf : Number.POSITIVE_INFINITY;
  }

  /** How far it is behind, for operators. */
  get lagSeconds(): number {
    return this.#usable && this.#caughtUp ? 0 : (this.#clock.elapsed() - this.#asOf) / 1000;
  }

  /** After an answer that failed it is asked nothing until a check has reached it. */
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
    // After a failover the new primary may be behind what the old one had written; those marks mean nothing any more.
    this.#marks = this.#marks.filter(({ position }) => position <= mark.position).slice(1 - MARKS_MAX);
    this.#marks.push(mark);
  }
}
