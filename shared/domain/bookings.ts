/** A booking, which is a hold until it is confirmed. Times are RFC 3339 in UTC, as clients see them. */
import { z } from "zod";
import { type BookingId, type EventId, idOf, type UserId } from "./ids.ts";

export const BOOKING_STATUSES = ["held", "confirmed", "cancelled", "expired"] as const;

export const bookingSchema = z.object({
  id: idOf<BookingId>(),
  eventId: idOf<EventId>(),
  userId: idOf<UserId>(),
  quantity: z.number(),
  status: z.enum(BOOKING_STATUSES),
  /** Only a hold expires: null once it is confirmed or cancelled. */
  expiresAt: z.string().nullable(),
  createdAt: z.string(),
  updatedAt: z.string(),
});
export type Booking = Readonly<z.infer<typeof bookingSchema>>;
