/**
 * What routers ask of the read side. Like the RPC with nodes (rpc.ts): every call carries `Authorization: Bearer <INTERNAL_TOKEN>`
 * and the version of the RPC, is a POST with a JSON body, and its answer is checked. Times are RFC 3339 in UTC.
 */
import { z } from "zod";
import { BOOKING_STATUSES, type Booking, bookingSchema } from "../domain/bookings.ts";
import {
  checkedId,
  type EventId,
  parseBookingId,
  parseEventId,
  parseUserId,
  storedId,
} from "../domain/ids.ts";
import { LIMITS } from "../domain/limits.ts";
import { shardIdSchema } from "./shard-map.ts";

/** How long the read side may wait until it has a change. */
export const FRESHNESS_WAIT_MAX_MS = 500;

/** The newest minutes of a series; older ones are left out. A week of an event that sells without a pause. */
export const MINUTES_MAX = 10_080;

const bookingId = checkedId(parseBookingId, "must be a UUID");
const eventId = checkedId(parseEventId, "must be a UUID");

const page = {
  /** Bookings that are older than this one, newest first. */
  before: bookingId.nullable(),
  limit: z
    .number()
    .int()
    .min(1)
    .max(LIMITS.pageItemsMax + 1),
  /** Only bookings that have this status. */
  status: z.enum(BOOKING_STATUSES).nullable(),
};

export const userBookingsRequestSchema = z.object({
  userId: checkedId(parseUserId, "must be a user id"),
  ...page,
  /** The answer waits for this change, as long as it may, and says whether it is in. */
  position: z.object({ shard: shardIdSchema, position: z.number().int().nonnegative() }).nullable(),
  waitMs: z.number().int().min(0).max(FRESHNESS_WAIT_MAX_MS),
});
export type UserBookingsRequest = z.infer<typeof userBookingsRequestSchema>;

export const eventBookingsRequestSchema = z.object({ eventId, ...page });
export type EventBookingsRequest = z.infer<typeof eventBookingsRequestSchema>;

export const statisticsRequestSchema = z.object({ eventId });
export type StatisticsRequest = z.infer<typeof statisticsRequestSchema>;

/** The answer to `bookingsCsv` is `text/csv`, all bookings of the event, in no promised order. */
export const csvRequestSchema = z.object({ eventId, status: z.enum(BOOKING_STATUSES).nullable() });
export type CsvRequest = z.infer<typeof csvRequestSchema>;

/** With status 503: the read side cannot answer, or is too far behind the shards. */
const unavailableSchema = z.object({ outcome: z.literal("read_side_unavailable") });
export type ReadSideUnavailable = Readonly<z.infer<typeof unavailableSchema>>;

export interface BookingsPage {
  readonly outcome: "page";
  readonly items: readonly Booking[];
  /** Everything that was committed on any shard until then is in. */
  readonly asOf: string;
  /** Whether the change that was asked for is in. True when none was. */
  readonly hasPosition: boolean;
}
export const bookingsAnswerSchema: z.ZodType<BookingsPage | ReadSideUnavailable> = z.discriminatedUnion(
  "outcome",
  [
    z.object({
      outcome: z.literal("page"),
      items: z.array(bookingSchema),
      asOf: z.string(),
      hasPosition: z.boolean(),
    }),
    unavailableSchema,
  ],
);

/** Tickets, not bookings, except `buyers`: users who have confirmed tickets now. */
export interface Statistics {
  readonly eventId: EventId;
  readonly totalTickets: number;
  readonly available: number;
  readonly held: number;
  readonly confirmed: number;
  readonly cancelled: number;
  readonly expired: number;
  readonly buyers: number;
  /** What was confirmed and cancelled in each minute in which something was, oldest first. */
  readonly perMinute: readonly {
    readonly minute: string;
    readonly confirmed: number;
    readonly cancelled: number;
  }[];
}
export type StatisticsAnswer =
  | { readonly outcome: "statistics"; readonly statistics: Statistics; readonly asOf: string }
  | { readonly outcome: "absent"; readonly asOf: string }
  | ReadSideUnavailable;
export const statisticsAnswerSchema: z.ZodType<StatisticsAnswer> = z.discriminatedUnion("outcome", [
  z.object({
    outcome: z.literal("statistics"),
    statistics: z.object({
      eventId: storedId<EventId>(),
      totalTickets: z.number(),
      available: z.number(),
      held: z.number(),
      confirmed: z.number(),
      cancelled: z.number(),
      expired: z.number(),
      buyers: z.number(),
      perMinute: z.array(z.object({ minute: z.string(), confirmed: z.number(), cancelled: z.number() })),
    }),
    asOf: z.string(),
  }),
  /** The read side does not know the event yet. */
  z.object({ outcome: z.literal("absent"), asOf: z.string() }),
  unavailableSchema,
]);

/** The type of an answer to `bookingsCsv`. */
export const CSV_TYPE = "text/csv; charset=utf-8";

/** The paths, all POST. */
export const READ_SIDE = {
  userBookings: "/rpc/user-bookings",
  eventBookings: "/rpc/event-bookings",
  bookingsCsv: "/rpc/event-bookings.csv",
  statistics: "/rpc/statistics",
} as const;
