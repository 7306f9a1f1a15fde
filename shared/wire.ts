/**
 * What a router and a shard node say to each other. Commands of many clients travel in one call; each has its own answer.
 * Times are RFC 3339 UTC, durations say their unit. Every call carries `Authorization: Bearer <INTERNAL_TOKEN>` and the
 * version of the RPC. Requests and answers are checked by these schemas, which drop fields that they do not know.
 */
import { z } from "zod";
import {
  type BookingId,
  type EventId,
  type IdempotencyKey,
  parseBookingId,
  parseCanonicalEventId,
  parseEventId,
  parseIdempotencyKey,
  parseUserId,
  type UserId,
} from "./ids.ts";

/** Rises when a router or a node of before could not go on with what is said. In the header of each call and each answer. */
export const RPC_VERSION = "1";
export const RPC_VERSION_HEADER = "onsale-rpc";
/** Nodes are exchanged before routers (deploy/roll.sh), so they answer routers of the version before in its words. */
const RPC_VERSIONS_UNDERSTOOD: readonly string[] = [RPC_VERSION];

/** Why the two cannot talk, by name, when the header of the `other` says so or is missing. */
export function rpcVersionProblem(
  header: string | undefined,
  [own, other]: readonly ["node", "router"] | readonly ["router", "node"] = ["node", "router"],
): string | undefined {
  if (header !== undefined && RPC_VERSIONS_UNDERSTOOD.includes(header)) return undefined;
  const spoken = header === undefined ? "named no version" : `spoke ${header.slice(0, 20)}`;
  return `this ${own} speaks RPC ${RPC_VERSIONS_UNDERSTOOD.join(" and ")}; the ${other} ${spoken}`;
}

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

/** An id in an answer is taken as it is: it came out of the database, and checking its form would cost more than all else. */
const idOf = <T extends string>() => z.string() as unknown as z.ZodType<T, T>;

const bookingSchema = z.object({
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

const eventSchema = z.object({
  id: idOf<EventId>(),
  name: z.string(),
  venue: z.string().nullable(),
  startsAt: z.string(),
  salesStartAt: z.string().nullable(),
  salesEndAt: z.string().nullable(),
  status: z.enum(EVENT_STATUSES),
  totalTickets: z.number(),
  availableTickets: z.number(),
  maxPerUser: z.number(),
  /** Rises by one with every committed batch that changed the event; the order of all caches. */
  version: z.number(),
  createdAt: z.string(),
  updatedAt: z.string(),
});
export type Event = Readonly<z.infer<typeof eventSchema>>;

const snapshotSchema = z.object({
  event: eventSchema,
  /** When the event is sold out: the moment at which a hold's tickets come back on their own, if any are held. */
  nextHoldExpiresAt: z.string().nullable(),
});
/** An event at one version, as caches hold it. */
export type Snapshot = Readonly<z.infer<typeof snapshotSchema>>;

/** Those that are snapshots. They only save a read, so one that is none counts as absent. */
export function snapshotsAmong(items: readonly unknown[]): Snapshot[] {
  return items.flatMap((item) => snapshotSchema.safeParse(item).data ?? []);
}

const decisionSchemas = [
  z.object({
    outcome: z.enum(["booked", "held", "replayed", "confirmed", "cancelled"]),
    booking: bookingSchema,
  }),
  z.object({ outcome: z.literal("insufficient_tickets"), availableTickets: z.number() }),
  z.object({ outcome: z.literal("user_limit_exceeded"), maxPerUser: z.number(), held: z.number() }),
  z.object({
    outcome: z.enum([
      "sold_out",
      "sales_not_open",
      "event_not_found",
      "booking_not_found",
      "hold_expired",
      "idempotency_key_reused",
      "wrong_shard",
    ]),
  }),
] as const;
/** What a shard decided about one command. An expected "no" is a value, never an exception. */
export type Decision = Readonly<z.infer<(typeof decisionSchemas)[number]>>;

const failureSchema = z.object({
  outcome: z.enum(["overloaded", "shard_unavailable", "outcome_unknown", "internal"]),
});
/** Why there is no decision. `outcome_unknown` is the only one after which the command may have taken effect. */
export type Failure = Readonly<z.infer<typeof failureSchema>>;

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

/**
 * True only for commands that `commandSchema` would return as they are, which is how routers send them: it takes a fifth of
 * the schema's time, and a rush brings 500 in one call. A test holds the two equal.
 */
export function areCanonicalCommands(commands: unknown): commands is Command[] {
  return Array.isArray(commands) && commands.length > 0 && commands.every(isCanonicalCommand);
}

function isCanonicalCommand(value: unknown): boolean {
  if (typeof value !== "object" || value === null) return false;
  const { kind, eventId, bookingId, userId, quantity, key, ttlSeconds, budgetMs } = value as Readonly<
    Record<string, unknown>
  >;
  if (typeof budgetMs !== "number" || !(budgetMs > 0) || budgetMs === Number.POSITIVE_INFINITY) return false;
  switch (kind) {
    case "book":
    case "hold":
      return (
        (kind === "book" || isWithin(ttlSeconds, LIMITS.holdTtlSecondsMax)) &&
        isCanonicalId(eventId) &&
        parseUserId(userId) !== undefined &&
        isWithin(quantity, LIMITS.ticketsPerBookingMax) &&
        typeof key === "string" &&
        parseIdempotencyKey(key) !== undefined
      );
    case "confirm":
    case "cancel":
      return isCanonicalId(bookingId) && (userId === null || parseUserId(userId) !== undefined);
    default:
      return false;
  }
}

function isCanonicalId(value: unknown): boolean {
  return typeof value === "string" && parseCanonicalEventId(value) !== undefined;
}

function isWithin(value: unknown, max: number): boolean {
  return typeof value === "number" && Number.isInteger(value) && value >= 1 && value <= max;
}

export const commandsRequestSchema = z.object({
  commands: z.union([z.custom<Command[]>(areCanonicalCommands), z.array(commandSchema).min(1)]),
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
export const commandsAnswerSchema: z.ZodType<CommandsResponse | Failure> = z.union([
  z.object({
    results: z.array(z.discriminatedUnion("outcome", [...decisionSchemas, failureSchema])),
    snapshots: z.array(z.unknown()).transform(snapshotsAmong),
    mapVersion: z.number(),
  }),
  failureSchema,
]);

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
  | { readonly outcome: "found"; readonly value: T; readonly ageMs?: number | undefined }
  | { readonly outcome: "absent" }
  | { readonly outcome: "wrong_shard" };
export interface ReadResponse<T> {
  readonly results: readonly ReadResult<T>[];
  readonly mapVersion: number;
}
function readAnswerOf<T>(value: z.ZodType<T>): z.ZodType<ReadResponse<T> | Failure> {
  const found = z.object({ outcome: z.literal("found"), value, ageMs: z.number().nonnegative().optional() });
  const results = z.array(
    z.discriminatedUnion("outcome", [
      found,
      z.object({ outcome: z.literal("absent") }),
      z.object({ outcome: z.literal("wrong_shard") }),
    ]),
  );
  return z.union([z.object({ results, mapVersion: z.number() }), failureSchema]);
}
export const eventsAnswerSchema = readAnswerOf<Snapshot>(snapshotSchema);
export const bookingsAnswerSchema = readAnswerOf<Booking>(bookingSchema);

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
const listResponseSchema = z.object({
  events: z.array(eventSchema),
  /** From a replica: it is what the primary would have said at most so long before the call arrived. */
  ageMs: z.number().nonnegative().optional(),
});
export type ListResponse = Readonly<z.infer<typeof listResponseSchema>>;
export const listAnswerSchema: z.ZodType<ListResponse | Failure> = z.union([
  listResponseSchema,
  failureSchema,
]);

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
export const eventAnswerSchema = z.discriminatedUnion("outcome", [
  z.object({ outcome: z.literal("saved"), snapshot: snapshotSchema }),
  /** The event all the same: holds that were due may have ended. */
  z.object({ outcome: z.enum(["below_sold", "invalid_sales_window"]), snapshot: snapshotSchema }),
  z.object({ outcome: z.enum(["event_not_found", "wrong_shard"]) }),
  failureSchema,
]);
export type EventResult = Readonly<z.infer<typeof eventAnswerSchema>>;

/** The paths of a node's RPC, all POST with a JSON body but the map, which is GET. */
export const RPC = {
  commands: "/rpc/commands",
  read: "/rpc/read",
  list: "/rpc/events/list",
  createEvent: "/rpc/events/create",
  changeEvent: "/rpc/events/change",
  map: "/rpc/map",
} as const;
