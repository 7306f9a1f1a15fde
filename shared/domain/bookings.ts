/** A booking, which may begin as a hold. Times are RFC 3339 in UTC, as in the public API. */
import { z } from "zod";
import { type BookingId, type EventId, storedId, type UserId } from "./ids.ts";

export const BOOKING_STATUSES = ["held", "confirmed", "cancelled", "expired"] as const;

export const bookingSchema = z.object({
  id: storedId<BookingId>(),
  eventId: storedId<EventId>(),
  userId: storedId<UserId>(),
  quantity: z.number(),
  status: z.enum(BOOKING_STATUSES),
  /** Null unless the booking is a hold or an expired hold. */
  expiresAt: z.string().nullable(),
  createdAt: z.string(),
  updatedAt: z.string(),
});
export type Booking = Readonly<z.infer<typeof bookingSchema>>;
