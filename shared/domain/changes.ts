/**
 * The log of changes: everything that happened to a shard's events and bookings, in order. A change is what one transaction did.
 * Its position says where it stands in the log of its shard; positions rise, with gaps that are never filled.
 */
import { z } from "zod";
import { type Booking, bookingSchema } from "./bookings.ts";
import { type Event, eventSchema } from "./events.ts";
import { type EventId, type ShardId, storedId } from "./ids.ts";

export interface Change {
  readonly position: number;
  /** The moment of the transaction, RFC 3339. */
  readonly at: string;
  /** Each event that changed, as the transaction left it. */
  readonly events: readonly {
    readonly id: EventId;
    readonly version: number;
    readonly availableTickets: number;
  }[];
  /** The whole event, when its organizer created it (version 1) or changed it. */
  readonly event: Event | null;
  /** Each booking that is new or has another status. */
  readonly bookings: readonly Booking[];
}

export const changeSchema: z.ZodType<Change> = z.object({
  position: z.number(),
  at: z.string(),
  events: z.array(z.object({ id: storedId<EventId>(), version: z.number(), availableTickets: z.number() })),
  event: eventSchema.nullable(),
  bookings: z.array(bookingSchema),
});

/** A position with its shard, as clients carry it. They need not understand it. */
export function positionText(shard: ShardId, position: number): string {
  return `${shard}.${position}`;
}
