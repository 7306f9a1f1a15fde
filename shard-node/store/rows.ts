/** The rows of PostgreSQL in JSON, and how they become what travels on the wire. */
import type { BookingId, EventId, UserId } from "../../shared/domain/ids.ts";
import type { Booking } from "../../shared/domain/bookings.ts";
import type { Event, Snapshot } from "../../shared/domain/events.ts";
import type { CopiedBooking } from "../../shared/wire/rpc.ts";

/** A row of `events` as JSON, with what snapshots_of() adds. */
export interface EventRow {
  id: EventId;
  owner_id: UserId | null;
  name: string;
  venue: string | null;
  starts_at: string;
  sales_start_at: string | null;
  sales_end_at: string | null;
  total_tickets: number;
  available_tickets: number;
  max_per_user: number;
  intake: Event["intake"];
  status: Event["status"];
  version: number;
  created_at: string;
  updated_at: string;
  next_hold_expires_at?: string | null;
}

/** A row of `bookings` as JSON. */
export interface BookingRow {
  id: BookingId;
  event_id: Booking["eventId"];
  user_id: Booking["userId"];
  quantity: number;
  status: Booking["status"];
  expires_at: string | null;
  created_at: string;
  updated_at: string;
}

/** `nowMs` is by the clock of the database, which also decides about the hold. */
export function bookingFrom(row: BookingRow, nowMs: number): Booking {
  const expiresAt = row.expires_at === null ? null : iso(row.expires_at);
  // A due hold is expired for everybody (B6), even before a sweep has written that down.
  const due = row.status === "held" && expiresAt !== null && Date.parse(expiresAt) <= nowMs;
  const status = due ? "expired" : row.status;
  return {
    id: row.id,
    eventId: row.event_id,
    userId: row.user_id,
    quantity: row.quantity,
    status,
    expiresAt: status === "held" || status === "expired" ? expiresAt : null,
    createdAt: iso(row.created_at),
    updatedAt: iso(row.updated_at),
  };
}

/** A row of `bookings` as JSON, with when it was confirmed; null as long as it is not, and when that was before it was kept. */
export interface CopiedRow extends BookingRow {
  confirmed_at: string | null;
}

/** The booking as its row is: that a hold has come due will be a change of its own. */
export function copiedFrom(row: CopiedRow): CopiedBooking {
  return { ...bookingFrom(row, Number.NEGATIVE_INFINITY), confirmedAt: isoOrNull(confirmedAt(row)) };
}

function confirmedAt({ status, expires_at, created_at, updated_at, confirmed_at }: CopiedRow): string | null {
  // What a booking was for a moment within a batch is no change, and so in no log.
  if (confirmed_at !== null)
    return status === "cancelled" && confirmed_at === updated_at ? null : confirmed_at;
  // It was never a hold.
  if (expires_at === null) return created_at;
  return status === "confirmed" ? updated_at : null;
}

export function snapshotFrom(row: EventRow): Snapshot {
  return { event: eventFrom(row), nextHoldExpiresAt: isoOrNull(row.next_hold_expires_at ?? null) };
}

export function eventFrom(row: EventRow): Event {
  return {
    id: row.id,
    ownerId: row.owner_id,
    name: row.name,
    venue: row.venue,
    startsAt: iso(row.starts_at),
    salesStartAt: isoOrNull(row.sales_start_at),
    // Without an end of their own, sales end when the event starts (B10).
    salesEndAt: iso(row.sales_end_at ?? row.starts_at),
    status: row.status,
    totalTickets: row.total_tickets,
    availableTickets: row.available_tickets,
    maxPerUser: row.max_per_user,
    intake: row.intake,
    version: row.version,
    createdAt: iso(row.created_at),
    updatedAt: iso(row.updated_at),
  };
}

/** PostgreSQL prints a time with the session's offset; clients see RFC 3339 UTC with milliseconds. */
export function iso(time: string): string {
  // Mostly the offset is zero, and a batch of many events brings thousands of times: `2030-06-01T20:00:00.123+00:00`.
  if (time.endsWith("+00:00") && time[10] === "T") {
    if (time.length === 29 && time[19] === ".") return `${time.slice(0, 23)}Z`;
    if (time.length === 25) return `${time.slice(0, 19)}.000Z`;
  }
  return new Date(time).toISOString();
}

function isoOrNull(time: string | null): string | null {
  return time === null ? null : iso(time);
}
