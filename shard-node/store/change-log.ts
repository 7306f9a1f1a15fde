/** The log of changes in the shard's database (migrations/shard/0014_changes.sql), and the places of followers (0015_log-places.sql). */
import type { Change } from "../../shared/domain/changes.ts";
import type { Database, Statement } from "../../shared/database/database.ts";
import { type BookingRow, bookingFrom, eventFrom, type EventRow, iso } from "./rows.ts";
import { bounded, boundsOf, oneRow } from "./row-locks.ts";

const CHANGES_AFTER: Statement = {
  name: "changes-after",
  text: "select changes_after($1, $2, $3) as result",
};
const DROP_CHANGES = bounded("drop-changes", "drop_changes(make_interval(hours => $3))");

const HOLD_PLACE = bounded("hold-place", "hold_place($3, $4, $5, $6)");

/** How long to wait for the lock of a part that is dropped. Only who reads that part can hold it. */
const DROP_LOCK_WAIT_MS = 100;

/** A change as PostgreSQL answers it. */
export interface ChangeRow extends Omit<Change, "event" | "bookings"> {
  readonly event: EventRow | null;
  readonly bookings: readonly BookingRow[];
}

/** Changes in order; `position` is the last one's. `dropped`: changes after the given position are not kept any more. */
export type ChangesRead =
  | { readonly dropped: true }
  | {
      readonly dropped: false;
      readonly changes: readonly Change[];
      readonly position: number;
      /** By the database's clock: what was committed until then is in, or was before. */
      readonly asOf: string;
      /** Age of the first change, also when it must wait for an earlier one to be committed; 0 without one. */
      readonly lagSeconds: number;
    };

/**
 * The changes after a position, of `bookingsMax` bookings at most, unless the first one alone has more. Without a position
 * none, only the position of the newest change. A place that is kept in the database itself may be before the log was begun anew.
 * Throws DatabaseError.
 */
export async function readChanges(
  database: Database,
  after: number | null,
  bookingsMax: number,
  isPlace: boolean,
): Promise<ChangesRead> {
  const { result } = await oneRow<{
    result: {
      dropped: boolean;
      changes: ChangeRow[];
      position: number;
      asOf: string;
      lagSeconds?: number | null;
    };
  }>(database, CHANGES_AFTER, [after, bookingsMax, isPlace]);
  if (result.dropped) return { dropped: true };
  return {
    dropped: false,
    changes: result.changes.map(changeFrom),
    position: result.position,
    asOf: iso(result.asOf),
    lagSeconds: Math.max(0, result.lagSeconds ?? 0),
  };
}

/**
 * Drops the changes that are older than `keepHours`. Returns how many seconds the oldest change that is left is old; undefined
 * when another node is at work on it. Throws DatabaseError.
 */
export async function dropChanges(database: Database, keepHours: number): Promise<number | undefined> {
  const { result } = await oneRow<{ result: number | null }>(database, DROP_CHANGES, [
    String(DROP_LOCK_WAIT_MS),
    String(database.bounds.transactionTimeoutMs),
    keepHours,
  ]);
  return result ?? undefined;
}

/** Where a follower of the log is, and whether this holder may do its work. */
export interface Place {
  readonly held: boolean;
  /** Everything up to here is done. */
  readonly position: number;
  /** Changes after the place are not kept any more, so it has moved on to the first that is. */
  readonly skipped: boolean;
  /** Age of the first change after it; 0 without one. */
  readonly lagSeconds: number;
}

/**
 * Holds the place of `follower` for `seconds`, if no other holder does, and moves it to `position` if that is further on. With 0 seconds
 * gives it back. Throws DatabaseError.
 */
export async function holdPlace(
  database: Database,
  follower: string,
  holder: string,
  seconds: number,
  position?: number,
): Promise<Place> {
  const { result } = await oneRow<{ result: Place & { lagSeconds: number | null } }>(database, HOLD_PLACE, [
    ...boundsOf(database),
    follower,
    holder,
    seconds,
    position ?? null,
  ]);
  return { ...result, lagSeconds: Math.max(0, result.lagSeconds ?? 0) };
}

export function changeFrom({ at, event, bookings, ...change }: ChangeRow): Change {
  return {
    ...change,
    at: iso(at),
    event: event && eventFrom(event),
    // As they became then. That a hold has come due since is a change of its own.
    bookings: bookings.map((row) => bookingFrom(row, Number.NEGATIVE_INFINITY)),
  };
}
