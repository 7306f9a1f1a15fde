/** Outcomes of booking requests (migrations/shard/0013_booking-requests.sql), and how they are read, written by a lapse, and forgotten. */
import type { Database, Statement } from "../../shared/database/database.ts";
import { type BookingId, slotOfBooking } from "../../shared/domain/ids.ts";
import { invariant } from "../../shared/domain/invariant.ts";
import type { Decision } from "../../shared/domain/outcomes.ts";
import { REQUEST_KEPT_SECONDS, type RequestState } from "../../shared/domain/requests.ts";
import type { Span } from "../../shared/watch/tracing.ts";
import type { ReadResult } from "../../shared/wire/rpc.ts";
import { bounded, boundsOf, oneRow } from "./row-locks.ts";
import { type BookingRow, bookingFrom, iso } from "./rows.ts";

const READ_REQUESTS = bounded("read-requests", "read_requests($3, $4, $5, $6, $7)");
const PRUNE_REQUESTS: Statement = { name: "prune-requests", text: "select prune_requests($1, $2) as count" };

/** Outcomes are forgotten a little later than receipts are, so that no receipt misses its outcome. */
const FORGOTTEN_LATER_SECONDS = 3600;
/** Rows that one statement forgets. */
const FORGOTTEN_MAX = 10_000;

/** The outcome of a request as PostgreSQL keeps it. */
export interface OutcomeRow {
  outcome: string;
  number?: number | null;
  maxPerUser?: number | null;
  booking?: BookingRow | null;
}

export function decisionOf(row: OutcomeRow, nowMs: number): Decision {
  const { outcome, number, maxPerUser, booking } = row;
  switch (outcome) {
    case "booked":
    case "held":
    case "replayed":
      invariant(booking !== undefined && booking !== null, "a granted request has its booking", { outcome });
      return { outcome, booking: bookingFrom(booking, nowMs) };
    case "insufficient_tickets":
      return { outcome, availableTickets: number ?? 0 };
    case "user_limit_exceeded":
      return { outcome, held: number ?? 0, maxPerUser: maxPerUser ?? 0 };
    case "sold_out":
    case "sales_not_open":
    case "event_not_found":
    case "idempotency_key_reused":
    case "lapsed":
      return { outcome };
    default:
      throw new Error(`an unknown outcome of a request: ${outcome}`);
  }
}

/**
 * What became of requests, in the order of their ids. One that nobody decided in time lapses by this. `at` is the moment, for tests
 * that choose it.
 */
export async function readRequests(
  database: Database,
  ids: readonly BookingId[],
  maxAgeSeconds: number,
  at?: Date,
  span?: Span,
): Promise<ReadResult<RequestState>[]> {
  const values = [
    ...boundsOf(database),
    ids,
    ids.map(slotOfBooking),
    maxAgeSeconds,
    REQUEST_KEPT_SECONDS,
    at ?? null,
  ];
  const { result } = await oneRow<{ result: { now: string; requests: OutcomeRow[] } }>(
    database,
    READ_REQUESTS,
    values,
    span,
  );
  const nowMs = Date.parse(iso(result.now));
  return result.requests.map((row) => {
    switch (row.outcome) {
      case "absent":
      case "wrong_shard":
        return { outcome: row.outcome };
      case "queued":
        return { outcome: "found", value: { status: "queued", ahead: null } };
      case "lapsed":
        return { outcome: "found", value: { status: "lapsed" } };
      default:
        return { outcome: "found", value: { status: "decided", decision: decisionOf(row, nowMs) } };
    }
  });
}

/** Forgets outcomes whose receipts nobody may read any more. */
export async function pruneRequests(database: Database): Promise<void> {
  const keptSeconds = REQUEST_KEPT_SECONDS + FORGOTTEN_LATER_SECONDS;
  let forgotten = FORGOTTEN_MAX;
  while (forgotten === FORGOTTEN_MAX) {
    const [row] = await database.query<{ count: number }>(PRUNE_REQUESTS, [keptSeconds, FORGOTTEN_MAX]);
    forgotten = row?.count ?? 0;
  }
}
