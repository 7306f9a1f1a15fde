/** The shapes of the public API: one source for validation, types and the OpenAPI document. */
import { z } from "@hono/zod-openapi";
import { type BookingId, type EventId, parseBookingId, parseEventId } from "../../shared/domain/ids.ts";
import { BOOKING_STATUSES } from "../../shared/domain/bookings.ts";
import { EVENT_STATUSES, INTAKES } from "../../shared/domain/events.ts";
import { LIMITS } from "../../shared/domain/limits.ts";
import { CLOUD_EVENT_TYPES } from "../../shared/domain/cloud-events.ts";
import { WEBHOOK_URL_CHARACTERS_MAX, WEBHOOKS_OF_EVENT_MAX } from "../../shared/domain/webhooks.ts";
import { MINUTES_MAX } from "../../shared/wire/read-side.ts";
import { PROBLEMS, type ProblemCode } from "./problems.ts";

/** Written so that JavaScript, Python and Rust read it alike: tools make text of it. */
const CONTROLS = "\\u0000-\\u001f\\u007f-\\u009f";
/** Spaces, format characters, fillers, and what only one's own font knows. */
const INVISIBLE =
  " \\u00a0\\u00ad\\u034f\\u061c\\u115f\\u1160\\u1680\\u17b4\\u17b5\\u180b-\\u180f\\u2000-\\u200f\\u2028-\\u202f" +
  "\\u205f-\\u206f\\u2800\\u3000\\u3164\\ue000-\\uf8ff\\ufe00-\\ufe0f\\ufeff\\uffa0\\ufff0-\\uffff\u{e0000}-\u{10ffff}";
/** The first two parts have no character in common, so there is one way to read a text, and the time for it is linear. */
const VISIBLE = `^[${INVISIBLE}]*[^${CONTROLS}${INVISIBLE}][^${CONTROLS}]*$`;
const visible = new RegExp(VISIBLE, "u");

/** Text for people: no control characters, and at least one character to see. JSON Schema and PostgreSQL count code points. */
const text = z
  .string()
  .refine(
    (value) =>
      value.length <= 2 * LIMITS.nameCharactersMax && Array.from(value).length <= LIMITS.nameCharactersMax,
    { message: `must have at most ${LIMITS.nameCharactersMax} characters`, abort: true },
  )
  .refine(
    (value) => visible.test(value) && value.isWellFormed(),
    "must be visible text without control characters",
  )
  .openapi({ minLength: 1, maxLength: LIMITS.nameCharactersMax, pattern: VISIBLE, example: "First night" });

/** With a fraction of a second in more digits than anybody needs. */
const TIME_CHARACTERS_MAX = 64;
/** RFC 3339 with an offset, in years that both PostgreSQL and JavaScript know. Parsing makes it canonical UTC. */
const time = z
  .string()
  .refine((value) => value.length <= TIME_CHARACTERS_MAX, {
    message: `must have at most ${TIME_CHARACTERS_MAX} characters`,
    abort: true,
  })
  .pipe(z.iso.datetime({ offset: true }))
  .transform((value, context) => {
    const utc = new Date(value);
    const year = utc.getUTCFullYear();
    if (year >= 1 && year <= 9999) return utc.toISOString();
    context.addIssue({ code: "custom", message: "must be a time of the years 1 to 9999 in UTC" });
    return z.NEVER;
  })
  .openapi({ format: "date-time", maxLength: TIME_CHARACTERS_MAX, example: "2030-06-01T20:00:00Z" });

const totalTickets = z.int().min(1).max(LIMITS.ticketsPerEventMax).openapi({ example: 500 });
const maxPerUser = z.int().min(1).max(LIMITS.ticketsPerBookingMax).openapi({ example: 2 });
const quantity = z.int().min(1).max(LIMITS.ticketsPerBookingMax).openapi({ example: 2 });

export const eventBody = z
  .strictObject({
    name: text,
    venue: text.nullable().default(null),
    startsAt: time,
    totalTickets,
    maxPerUser: maxPerUser.default(LIMITS.maxPerUserDefault),
    salesStartAt: time.nullable().default(null),
    salesEndAt: time.nullable().default(null).describe("startsAt unless given."),
  })
  .refine(
    ({ startsAt, salesStartAt, salesEndAt }) =>
      salesStartAt === null || salesStartAt < (salesEndAt ?? startsAt),
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
  intake: z
    .enum(INTAKES)
    .optional()
    .describe("queue: every booking is answered with 202 and decided later, while there is a queue."),
});

export const bookingBody = z.strictObject({ quantity });
export const holdBody = z.strictObject({
  quantity,
  ttlSeconds: z.int().min(1).max(LIMITS.holdTtlSecondsMax).default(LIMITS.holdTtlSecondsDefault),
});
/** No body, or an empty object. */
export const emptyBody = z.strictObject({}).nullish();

/** The kind of id that the parameters of a path are, `{id}` mostly. */
export interface IdKind<Id> {
  /** For the document. */
  readonly params: z.ZodObject;
  /** Returns the canonical id, or undefined when the texts are none. */
  readonly parse: (...texts: string[]) => Id | undefined;
}
/** Every version of UUID is an id: one that onsale did not make names nothing. */
const uuid = z.string().openapi({
  format: "uuid",
  pattern: "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$",
  example: "01a20409-0c00-7c2b-af63-0abca586c6cb",
});
const params = z.object({ id: uuid });
export const eventId: IdKind<EventId> = { params, parse: parseEventId };
export const bookingId: IdKind<BookingId> = { params, parse: parseBookingId };
export const webhookId: IdKind<{ readonly eventId: EventId; readonly webhookId: string }> = {
  params: z.object({ id: uuid, webhookId: uuid }),
  parse: (event, webhook = "") => {
    const eventIdOf = parseEventId(event ?? "");
    const id = parseBookingId(webhook);
    return eventIdOf && id && { eventId: eventIdOf, webhookId: id };
  },
};
const receipt = z.string().openapi({
  pattern: "^[A-Za-z0-9_-]{68}$",
  example: "AaIECQwAfCuvYwq8pYbGywGiBAkMAHwrr2MKvKWGxssCk1pXbbVL5rFvMhXr5rmkIuzn",
});
/** Every text may be one; only its own code says whether it is (router/queue/receipts.ts). */
export const receiptId: IdKind<string> = { params: z.object({ receipt }), parse: (text) => text };

const webhookUrl = z
  .string()
  .max(WEBHOOK_URL_CHARACTERS_MAX)
  .regex(/^https?:\/\/[!-~]+$/, "must be an address that begins with https://")
  .openapi({ format: "uri", example: "https://tickets.example/hooks/onsale" });
const webhookTypes = z.array(z.enum(CLOUD_EVENT_TYPES)).min(1).max(CLOUD_EVENT_TYPES.length);
export const webhookBody = z.strictObject({
  url: webhookUrl,
  types: webhookTypes
    .transform((types) => [...new Set(types)])
    .default([...CLOUD_EVENT_TYPES])
    .describe("Of what it is told; of everything unless given."),
});

/** A cursor is the id of the last item of the previous page, so new items do not move a page. */
const cursorOf = <Id>(parse: (text: string) => Id | undefined) =>
  uuid.transform((value, context) => {
    const id = parse(value);
    if (id !== undefined) return id;
    context.addIssue({ code: "custom", message: "must be a nextCursor of an earlier answer" });
    return z.NEVER;
  });
const limit = z
  .string()
  .regex(/^\d{1,3}$/, `must be a whole number from 1 to ${LIMITS.pageItemsMax}`)
  .transform(Number)
  .pipe(z.number().min(1).max(LIMITS.pageItemsMax))
  .default(LIMITS.pageItemsDefault)
  .openapi({ type: "integer", minimum: 1, maximum: LIMITS.pageItemsMax, example: 20 });
export const listQuery = z.strictObject({ limit, cursor: cursorOf(parseEventId).optional() });
export const bookingsQuery = z.strictObject({
  limit,
  cursor: cursorOf(parseBookingId).optional(),
  status: z.enum(BOOKING_STATUSES).optional(),
});

/** Header fields of requests, for the document; what reads them checks them. */
export const keyHeaders = z.object({
  "idempotency-key": z.string().optional().openapi({
    description: "A request that is sent again under its key gets the result of the first one.",
    pattern: "^[!-~]([ -~]{0,126}[!-~])?$",
    minLength: 1,
    maxLength: 128,
    example: "order-17",
  }),
});
export const bookingHeaders = keyHeaders.extend({
  prefer: z.string().optional().openapi({
    description: "respond-async: 202 with a receipt, while there is a queue (RFC 7240 §4.1).",
    example: "respond-async",
  }),
});
export const positionHeaders = z.object({
  "onsale-position": z.string().optional().openapi({
    description: "Of an earlier answer: the list has that booking as it was answered, or newer.",
    example: "shard-0.4711.01a20409-0c00-7c2b-af63-0abca586c6cb",
  }),
});
export const ifMatchHeaders = z.object({
  "if-match": z.string().optional().openapi({
    description: "The change is made only when the newest version is one of these (RFC 9110 §13.1.1).",
    pattern: '^([*]|(W/)?"[!#-~]*"( *, *(W/)?"[!#-~]*")*)$',
    example: '"7"',
  }),
});
export const ifNoneMatchHeaders = z.object({
  "if-none-match": z
    .string()
    .optional()
    .openapi({ description: "ETags that the client has.", example: '"7"' }),
});

const timeOut = z.iso.datetime().openapi({ example: "2030-06-01T20:00:00.000Z" });
export const eventSchema = z
  .object({
    id: uuid,
    ownerId: z
      .string()
      .nullable()
      .describe("The organizer who created the event, and alone may change it; null for some of before 0.3.")
      .openapi({ example: "grace" }),
    name: z.string().openapi({ example: "First night" }),
    venue: z.string().nullable().openapi({ example: "Great Hall" }),
    startsAt: timeOut,
    salesStartAt: timeOut.nullable(),
    salesEndAt: timeOut.describe("startsAt, unless another end was given."),
    status: z.enum(EVENT_STATUSES),
    totalTickets,
    availableTickets: z
      .int()
      .min(0)
      .max(LIMITS.ticketsPerEventMax)
      .describe(
        "Advisory: usually under a second old, and about a second more after a hold has ended. A booking alone decides.",
      )
      .openapi({ example: 498 }),
    maxPerUser,
    intake: z.enum(INTAKES),
    version: z.int().min(1).openapi({ example: 7 }),
    createdAt: timeOut,
    updatedAt: timeOut,
  })
  .meta({ id: "Event" });
export const eventListSchema = z
  .object({ items: z.array(eventSchema).max(LIMITS.pageItemsMax), nextCursor: uuid.nullable() })
  .meta({ id: "EventList" });
export const bookingSchema = z
  .object({
    id: uuid,
    eventId: uuid,
    userId: z.string().min(1).openapi({ example: "ada" }),
    quantity,
    status: z.enum(BOOKING_STATUSES),
    expiresAt: timeOut
      .nullable()
      .describe("When the hold ends or ended; null when there is no hold (any more)."),
    createdAt: timeOut,
    updatedAt: timeOut,
  })
  .meta({ id: "Booking" });

export const webhookSchema = z
  .object({ id: uuid, url: webhookUrl, types: webhookTypes })
  .meta({ id: "Webhook" });
export const newWebhookSchema = webhookSchema
  .extend({
    secret: z
      .string()
      .describe("Signs what is sent, by Standard Webhooks. It is told only here.")
      .openapi({ example: "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD" }),
  })
  .meta({ id: "NewWebhook" });
export const webhookListSchema = z
  .object({ items: z.array(webhookSchema).max(WEBHOOKS_OF_EVENT_MAX) })
  .meta({ id: "WebhookList" });

const asOf = timeOut.describe("Everything that was decided until then is in.");
export const bookingListSchema = z
  .object({
    items: z.array(bookingSchema).max(LIMITS.pageItemsMax),
    nextCursor: uuid.nullable(),
    asOf,
  })
  .meta({ id: "BookingList" });
const tickets = z.int().min(0).openapi({ example: 120 });
export const statisticsSchema = z
  .object({
    eventId: uuid,
    asOf,
    totalTickets,
    available: tickets,
    held: tickets,
    confirmed: tickets,
    cancelled: tickets,
    expired: tickets,
    buyers: z.int().min(0).describe("Users who have tickets.").openapi({ example: 70 }),
    perMinute: z
      .array(z.object({ minute: timeOut, confirmed: tickets, cancelled: tickets }))
      .max(MINUTES_MAX)
      .describe("Each minute in which something was sold or cancelled, oldest first; of many, the newest."),
  })
  .describe("Counts tickets, except `buyers`.")
  .meta({ id: "Statistics" });

export const problemSchema = z
  .object({
    type: z.string().openapi({ example: "urn:onsale:problem:sold_out" }),
    title: z.string().openapi({ example: PROBLEMS.sold_out.title }),
    status: z.int().min(400).max(599).openapi({ example: PROBLEMS.sold_out.status }),
    detail: z.string().openapi({ example: "Every ticket of the event is sold or held." }),
    code: z.enum(Object.keys(PROBLEMS) as [ProblemCode, ...ProblemCode[]]),
    requestId: z.string().openapi({ example: "828f3e16-5b48-4" }),
    traceId: z.string().optional().openapi({ example: "4bf92f3577b34da6a3ce929d0e0e4736" }),
    errors: z.array(z.object({ path: z.string(), message: z.string() })).optional(),
    availableTickets: z.int().optional(),
    maxPerUser: z.int().optional(),
    held: z.int().optional(),
  })
  .meta({ id: "Problem" });
export type ProblemDocument = z.infer<typeof problemSchema>;

export const requestSchema = z
  .object({
    receipt,
    bookingId: uuid,
    eventId: uuid,
    quantity,
    kind: z.enum(["book", "hold"]),
    status: z.enum(["queued", "decided", "lapsed"]),
    acceptedAt: timeOut,
    ahead: z
      .int()
      .min(0)
      .nullable()
      .describe("An estimate of the requests that are decided before this one; null when nobody knows.")
      .openapi({ example: 120 }),
    booking: bookingSchema.optional().describe("When the request was granted."),
    problem: problemSchema.optional().describe("When the request was refused."),
  })
  .meta({ id: "BookingRequest" });
export type BookingRequest = z.infer<typeof requestSchema>;
