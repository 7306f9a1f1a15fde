/**
 * What a router and a shard node say to each other. Commands of many clients travel in one call; each has its own answer.
 * Times are RFC 3339 UTC, durations say their unit. Every call carries `Authorization: Bearer <INTERNAL_TOKEN>`.
 */
import { z } from "zod";
import {
  type BookingId,
  type EventId,
  type IdempotencyKey,
  parseBookingId,
  parseEventId,
  parseIdempotencyKey,
  parseUserId,
  type UserId,
} from "./ids.ts";

export const EVENT_STATUSES = ["on_sale", "paused", "closed"] as const;
export const BOOKING_STATUSES = ["held", "confirmed", "cancelled", "expired"] as const;

/** Bounds of what clients may ask for; the schema of a shard has the same ones as constraints. */
export const LIMITS = {
  ticketsPerBookingMax: 100,
  ticketsPerEventMax: 10_000_000,
  holdTtlSecondsMax: 3600,
  holdTtlSecondsDefault: 600,
  maxPerUserDefault: 2,
  nameCharactersMax: 200,
  pageItemsMax: 100,
  pageItemsDefault: 20,
} as const;

function parsedBy<T extends string>(parse: (text: string) => T | undefined, what: string) {
  return z.string().transform((text, context): T => {
    const value = parse(text);
    if (value !== undefined) return value;
    context.addIssue({ code: "custom", message: `must be ${what}` });
    return z.NEVER;
  });
}
const eventId = parsedBy<EventId>(parseEventId, "a UUID");
const bookingId = parsedBy<BookingId>(parseBookingId, "a UUID");
const userId = parsedBy<UserId>(parseUserId, "a user id");
const key = parsedBy<IdempotencyKey>(parseIdempotencyKey, "an idempotency key");

/** What is left of the command's deadline when it is sent; relative, so that clocks need not agree. */
const budgetMs = z.number().positive();
const quantity = z.number().int().min(1).max(LIMITS.ticketsPerBookingMax);

export const commandSchema = z.discriminatedUnion("kind", [
  z.object({ kind: z.literal("book"), eventId, userId, quantity, key, budgetMs }),
  z.object({
    kind: z.literal("hold"),
    eventId,
    userId,
    quantity,
    key,
    ttlSeconds: z.number().int().min(1).max(LIMITS.holdTtlSecondsMax),
    budgetMs,
  }),
  /** `userId` must own the booking; null is an operator, who may settle anybody's. */
  z.object({ kind: z.literal("confirm"), bookingId, userId: userId.nullable(), budgetMs }),
  z.object({ kind: z.literal("cancel"), bookingId, userId: userId.nullable(), budgetMs }),
]);
export type Command = z.infer<typeof commandSchema>;
export type BookCommand = Extract<Command, { kind: "book" | "hold" }>;
export type SettleCommand = Extract<Command, { kind: "confirm" | "cancel" }>;

export interface Booking {
  readonly id: BookingId;
  readonly eventId: EventId;
  readonly userId: UserId;
  readonly quantity: number;
  readonly status: (typeof BOOKING_STATUSES)[number];
  /** Only a hold expires: null once it is confirmed or cancelled. */
  readonly expiresAt: string | null;
  readonly createdAt: string;
  readonly updatedAt: string;
}

export interface Event {
  readonly id: EventId;
  readonly name: string;
  readonly venue: string | null;
  readonly startsAt: string;
  readonly salesStartAt: string | null;
  readonly salesEndAt: string | null;
  readonly status: (typeof EVENT_STATUSES)[number];
  readonly totalTickets: number;
  readonly availableTickets: number;
  readonly maxPerUser: number;
  /** Rises by one with every committed batch that changed the event; the order of all caches. */
  readonly version: number;
  readonly createdAt: string;
  readonly updatedAt: string;
}

/** An event at one version, as caches hold it. */
export interface Snapshot {
  readonly event: Event;
  /** When the event is sold out: the moment at which a hold's tickets come back on their own, if any are held. */
  readonly nextHoldExpiresAt: string | null;
}

/** What a shard decided about one command. An expected "no" is a value, never an exception. */
export type Decision =
  | {
      readonly outcome: "booked" | "held" | "replayed" | "confirmed" | "cancelled";
      readonly booking: Booking;
    }
  | { readonly outcome: "insufficient_tickets"; readonly availableTickets: number }
  | { readonly outcome: "user_limit_exceeded"; readonly maxPerUser: number; readonly held: number }
  | {
      readonly outcome:
        | "sold_out"
        | "sales_not_open"
        | "event_not_found"
        | "booking_not_found"
        | "hold_expired"
        | "idempotency_key_reused"
        | "wrong_shard";
    };

/** Why there is no decision. `outcome_unknown` is the only one after which the command may have taken effect. */
export type Failure = {
  readonly outcome: "overloaded" | "shard_unavailable" | "outcome_unknown" | "internal";
};

export type CommandResult = Decision | Failure;

const MAY_CHANGE: ReadonlySet<CommandResult["outcome"]> = new Set([
  "sold_out",
  "insufficient_tickets",
  "user_limit_exceeded",
  "sales_not_open",
  "hold_expired",
  "overloaded",
  "shard_unavailable",
]);

/**
 * What a second try may say when the first was lost and may still be on its way: a yes, or a no that stays one. A refusal
 * of today may be a yes when the first try is decided after all, so nobody is told it for good (F1).
 */
export function afterLostTry(result: CommandResult): CommandResult {
  return MAY_CHANGE.has(result.outcome) ? { outcome: "outcome_unknown" } : result;
}

export const commandsRequestSchema = z.object({
  commands: z.array(commandSchema).min(1),
  /** The traces that commands belong to (W3C Trace Context), by position of the command; most are not sampled and have none. */
  traces: z
    .array(
      z.object({
        command: z.number().int().min(0),
        traceparent: z.string(),
        tracestate: z.string().optional(),
      }),
    )
    .optional(),
});
export type CommandsRequest = z.infer<typeof commandsRequestSchema>;
export interface CommandsResponse {
  /** One per command, in the order of the commands. */
  readonly results: readonly CommandResult[];
  /** Each event that the commands touched, once, at its newest version. */
  readonly snapshots: readonly Snapshot[];
  readonly mapVersion: number;
}

/** Reads of events or bookings; answers are in the order of the ids. */
export const readRequestSchema = z.discriminatedUnion("kind", [
  z.object({
    kind: z.literal("event"),
    ids: z.array(eventId).min(1),
    /** For each id: how old an answer may be when the call arrives. A replica may give one; without it, none may. */
    maxAgesMs: z.array(z.number().nonnegative()).optional(),
  }),
  z.object({ kind: z.literal("booking"), ids: z.array(bookingId).min(1) }),
]);
export type ReadResult<T> =
  /** `ageMs`, from a replica: it is what the primary would have said at most so long before the call arrived. */
  | { readonly outcome: "found"; readonly value: T; readonly ageMs?: number }
  | { readonly outcome: "absent" }
  | { readonly outcome: "wrong_shard" };
export interface ReadResponse<T> {
  readonly results: readonly ReadResult<T>[];
  readonly mapVersion: number;
}

export const listRequestSchema = z.object({
  before: eventId.nullable(),
  limit: z
    .number()
    .int()
    .min(1)
    .max(LIMITS.pageItemsMax + 1),
  /** How old the list may be when the call arrives; without it, it must be the newest. */
  maxAgeMs: z.number().nonnegative().optional(),
});
export interface ListResponse {
  readonly events: readonly Event[];
  /** From a replica: it is what the primary would have said at most so long before the call arrived. */
  readonly ageMs?: number;
}

const time = z.iso.datetime();
export const createEventRequestSchema = z.object({
  id: eventId,
  name: z.string(),
  venue: z.string().nullable(),
  startsAt: time,
  salesStartAt: time.nullable(),
  salesEndAt: time.nullable(),
  totalTickets: z.number().int(),
  maxPerUser: z.number().int(),
});
export type CreateEventRequest = z.infer<typeof createEventRequestSchema>;

export const changeEventRequestSchema = z.object({
  id: eventId,
  changes: z.object({
    name: z.string().optional(),
    venue: z.string().nullable().optional(),
    startsAt: time.optional(),
    salesStartAt: time.nullable().optional(),
    salesEndAt: time.nullable().optional(),
    totalTickets: z.number().int().optional(),
    maxPerUser: z.number().int().optional(),
    status: z.enum(EVENT_STATUSES).optional(),
  }),
});
export type ChangeEventRequest = z.infer<typeof changeEventRequestSchema>;

/** The answer to creating or changing an event. */
export type EventResult =
  | { readonly outcome: "saved"; readonly snapshot: Snapshot }
  /** The event all the same: holds that were due may have ended. */
  | { readonly outcome: "below_sold" | "invalid_sales_window"; readonly snapshot: Snapshot }
  | { readonly outcome: "event_not_found" | "wrong_shard" }
  | Failure;

/** The paths of a node's RPC, all POST with a JSON body but the map, which is GET. */
export const RPC = {
  commands: "/rpc/commands",
  read: "/rpc/read",
  list: "/rpc/events/list",
  createEvent: "/rpc/events/create",
  changeEvent: "/rpc/events/change",
  map: "/rpc/map",
} as const;
