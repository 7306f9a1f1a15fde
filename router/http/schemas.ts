/** The shapes of the public API: one source for validation, types and the OpenAPI document. */
import { z } from "@hono/zod-openapi";
import { type BookingId, type EventId, parseBookingId, parseEventId } from "../../shared/domain/ids.ts";
import { BOOKING_STATUSES } from "../../shared/domain/bookings.ts";
import { EVENT_STATUSES } from "../../shared/domain/events.ts";
import { LIMITS } from "../../shared/domain/limits.ts";
import { PROBLEMS, type ProblemCode } from "./problems.ts";

const VISIBLE = /^[^\p{Cc}\p{Cs}]*[^\p{C}\p{Z}][^\p{Cc}\p{Cs}]*$/u;

/** Text for people: no control characters, and at least one character to see. */
const text = z
  .string()
  .min(1)
  .max(LIMITS.nameCharactersMax)
  .regex(VISIBLE, "must be visible text without control characters")
  .openapi({ pattern: VISIBLE.source });

/** RFC 3339 with an offset, in years that both PostgreSQL and JavaScript know. Parsing makes it canonical UTC. */
const time = z.iso.datetime({ offset: true }).transform((value, context) => {
  const utc = new Date(value);
  const year = utc.getUTCFullYear();
  if (year >= 1 && year <= 9999) return utc.toISOString();
  context.addIssue({ code: "custom", message: "must be a time of the years 1 to 9999 in UTC" });
  return z.NEVER;
});

const totalTickets = z.int().min(1).max(LIMITS.ticketsPerEventMax);
const maxPerUser = z.int().min(1).max(LIMITS.ticketsPerBookingMax);
const quantity = z.int().min(1).max(LIMITS.ticketsPerBookingMax);

export const eventBody = z
  .strictObject({
    name: text,
    venue: text.nullable().default(null),
    startsAt: time,
    totalTickets,
    maxPerUser: maxPerUser.default(LIMITS.maxPerUserDefault),
    salesStartAt: time.nullable().default(null),
    salesEndAt: time.nullable().default(null),
  })
  .refine(
    ({ salesStartAt, salesEndAt }) =>
      salesStartAt === null || salesEndAt === null || salesStartAt < salesEndAt,
    {
      path: ["salesEndAt"],
      message: "must be after salesStartAt",
    },
  );

export const eventChanges = z.strictObject({
  name: text.optional(),
  venue: text.nullable().optional(),
  startsAt: time.optional(),
  totalTickets: totalTickets.optional(),
  maxPerUser: maxPerUser.optional(),
  salesStartAt: time.nullable().optional(),
  salesEndAt: time.nullable().optional(),
  status: z.enum(EVENT_STATUSES).optional(),
});

export const bookingBody = z.strictObject({ quantity });
export const holdBody = z.strictObject({
  quantity,
  ttlSeconds: z.int().min(1).max(LIMITS.holdTtlSecondsMax).default(LIMITS.holdTtlSecondsDefault),
});
/** No body, or an empty object. */
export const emptyBody = z.strictObject({}).nullish();

/** The kind of id that the `{id}` of a path is. */
export interface IdKind<Id> {
  /** For the document. */
  readonly params: z.ZodObject;
  /** Returns the canonical id, or undefined when `text` is no id. */
  readonly parse: (text: string) => Id | undefined;
}
const params = z.object({ id: z.uuid() });
export const eventId: IdKind<EventId> = { params, parse: parseEventId };
export const bookingId: IdKind<BookingId> = { params, parse: parseBookingId };

/** A cursor is the id of the last event of the previous page, so new events do not move a page. */
const cursor = z.string().transform((value, context) => {
  const id = parseEventId(Buffer.from(value, "base64url").toString());
  if (id !== undefined && cursorOf(id) === value) return id;
  context.addIssue({ code: "custom", message: "must be a nextCursor of an earlier answer" });
  return z.NEVER;
});
export const listQuery = z.strictObject({
  limit: z
    .string()
    .regex(/^\d{1,3}$/, `must be a whole number from 1 to ${LIMITS.pageItemsMax}`)
    .transform(Number)
    .pipe(z.number().min(1).max(LIMITS.pageItemsMax))
    .default(LIMITS.pageItemsDefault)
    .openapi({ type: "integer", minimum: 1, maximum: LIMITS.pageItemsMax }),
  cursor: cursor.optional(),
});

export function cursorOf(eventId: string): string {
  return Buffer.from(eventId).toString("base64url");
}

const timeOut = z.iso.datetime();
export const eventSchema = z
  .object({
    id: z.uuid(),
    name: z.string(),
    venue: z.string().nullable(),
    startsAt: timeOut,
    salesStartAt: timeOut.nullable(),
    salesEndAt: timeOut.nullable(),
    status: z.enum(EVENT_STATUSES),
    totalTickets: z.int(),
    availableTickets: z
      .int()
      .describe(
        "Advisory: usually under a second old, and about a second more after a hold has ended. A booking alone decides.",
      ),
    maxPerUser: z.int(),
    version: z.int(),
    createdAt: timeOut,
    updatedAt: timeOut,
  })
  .meta({ id: "Event" });
export const eventListSchema = z
  .object({ items: z.array(eventSchema), nextCursor: z.string().nullable() })
  .meta({ id: "EventList" });
export const bookingSchema = z
  .object({
    id: z.uuid(),
    eventId: z.uuid(),
    userId: z.string(),
    quantity: z.int(),
    status: z.enum(BOOKING_STATUSES),
    expiresAt: timeOut
      .nullable()
      .describe("When the hold ends or ended; null when there is no hold (any more)."),
    createdAt: timeOut,
    updatedAt: timeOut,
  })
  .meta({ id: "Booking" });

export const problemSchema = z
  .object({
    type: z.string(),
    title: z.string(),
    status: z.int(),
    detail: z.string(),
    code: z.enum(Object.keys(PROBLEMS) as [ProblemCode, ...ProblemCode[]]),
    requestId: z.string(),
    traceId: z.string().optional(),
    errors: z.array(z.object({ path: z.string(), message: z.string() })).optional(),
    availableTickets: z.int().optional(),
    maxPerUser: z.int().optional(),
    held: z.int().optional(),
  })
  .meta({ id: "Problem" });
export type ProblemDocument = z.infer<typeof problemSchema>;
