/** How the answer of decide_batch() becomes one decision for each command. */
import type { Booking } from "../../shared/domain/bookings.ts";
import { type BookCommand, type Command, isBookCommand } from "../../shared/domain/commands.ts";
import type { BookingId, EventId } from "../../shared/domain/ids.ts";
import { invariant } from "../../shared/domain/invariant.ts";
import type { Decision } from "../../shared/domain/outcomes.ts";
import { type BookingRow, bookingFrom, type EventRow, iso } from "./rows.ts";

/** What decide_batch() answers. Arrays without a name for what they are by have one element per booking command. */
export interface BatchRow {
  now: string;
  lockWaitSeconds: number;
  /** Null where the command needed no judgement, or nothing at all did: it was booked, or held, as asked. */
  outcomes: (string | null)[] | null;
  numbers: number[] | null;
  maxPerUser: number[] | null;
  replays: Record<string, BookingRow> | null;
  settled: { outcome: string; booking: BookingRow | null }[] | null;
  snapshots: EventRow[];
}

/** When a batch was decided, in both forms that its decisions need. */
interface Moment {
  readonly text: string;
  readonly ms: number;
}

/**
 * The decisions, in the order of the commands. `positions` has the place of each event in the call, from 1, and `ids` the
 * fresh ids of the booking commands.
 */
export function decisionsFrom(
  commands: readonly Command[],
  positions: ReadonlyMap<EventId, number>,
  ids: readonly BookingId[],
  result: BatchRow,
): Decision[] {
  const text = iso(result.now);
  const decidedAt = { text, ms: Date.parse(text) };
  let [booking, settled] = [0, 0];
  return commands.map((command) => {
    if (!isBookCommand(command)) return settleDecisionFrom(settled++, result, decidedAt);
    const index = booking++;
    const position = positions.get(command.eventId) ?? 0;
    return bookDecisionFrom(command, index, ids[index], position, result, decidedAt);
  });
}

function bookDecisionFrom(
  command: BookCommand,
  index: number,
  id: BookingId | undefined,
  position: number,
  result: BatchRow,
  decidedAt: Moment,
): Decision {
  const asAsked = command.kind === "hold" ? "held" : "booked";
  const outcome = result.outcomes?.[index] ?? asAsked;
  invariant(id !== undefined, "a booking command has an id", { index });
  const number = result.numbers?.[index] ?? 0;
  switch (outcome) {
    case "booked":
    case "held":
      return { outcome, booking: newBooking(command, id, decidedAt) };
    case "replayed": {
      const row = result.replays?.[index + 1];
      invariant(row !== undefined, "a replay comes with its booking", { index });
      const booking = bookingFrom(row, decidedAt.ms);
      // The second try of a batch whose first try had been committed finds its own bookings: not a client's replay.
      return { outcome: row.id === id ? asAsked : "replayed", booking };
    }
    case "insufficient_tickets":
      return { outcome, availableTickets: number };
    case "user_limit_exceeded":
      return { outcome, held: number, maxPerUser: result.maxPerUser?.[position - 1] ?? 0 };
    case "sold_out":
    case "sales_not_open":
    case "event_not_found":
    case "idempotency_key_reused":
    case "wrong_shard":
      return { outcome };
    default:
      throw new Error(`decide_batch answered an unknown outcome: ${outcome}`);
  }
}

function settleDecisionFrom(index: number, result: BatchRow, decidedAt: Moment): Decision {
  const { outcome, booking } = result.settled?.[index] ?? { outcome: "missing", booking: null };
  switch (outcome) {
    case "confirmed":
    case "cancelled":
      invariant(booking !== null, "a settled command comes with its booking", { index });
      return { outcome, booking: bookingFrom(booking, decidedAt.ms) };
    case "hold_expired":
    case "booking_not_found":
    case "wrong_shard":
      return { outcome };
    default:
      throw new Error(`decide_batch answered an unknown outcome: ${outcome}`);
  }
}

function newBooking(command: BookCommand, id: BookingId, { ms, text }: Moment): Booking {
  const held = command.kind === "hold";
  return {
    id,
    eventId: command.eventId,
    userId: command.userId,
    quantity: command.quantity,
    status: held ? "held" : "confirmed",
    expiresAt: held ? new Date(ms + command.ttlSeconds * 1000).toISOString() : null,
    createdAt: text,
    updatedAt: text,
  };
}
