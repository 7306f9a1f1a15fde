/** Commands as a router makes them. */
import { randomUUID } from "node:crypto";
import type { BookCommand, SettleCommand } from "../../shared/domain/commands.ts";
import {
  type BookingId,
  type EventId,
  type IdempotencyKey,
  slotOfBooking,
  type UserId,
} from "../../shared/domain/ids.ts";
import { slotOf } from "../../shared/domain/slots.ts";

/** Whose events those of tests are. */
export const ORGANIZER = "the-organizer" as UserId;

/** Where a deadline is no matter: long after the test. */
const deadline = 1_000_000_000;

export function bookCommand(
  eventId: EventId,
  user: string,
  quantity = 1,
  key: string = randomUUID(),
): Extract<BookCommand, { kind: "book" }> {
  return {
    kind: "book",
    eventId,
    slot: slotOf(eventId),
    userId: user as UserId,
    quantity,
    key: key as IdempotencyKey,
    deadline,
  };
}

export const settleCommand = (kind: SettleCommand["kind"], bookingId: BookingId, userId: UserId | null) =>
  ({ kind, bookingId, slot: slotOfBooking(bookingId), userId, deadline }) satisfies SettleCommand;
