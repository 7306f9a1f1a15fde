/**
 * The RPC between a router and a shard node. One call carries the commands of many clients, and its response has a result for
 * each. When they are decided at different times, the response is a stream of lines of JSON, each with the results that have
 * come since the line before, so nobody waits for the slowest. An answer is a response or a failure of the whole call. Every call carries `Authorization: Bearer <INTERNAL_TOKEN>` and
 * the version of the RPC. These schemas check requests and answers, and drop unknown fields.
 */
import { z } from "zod";
import { type Booking, bookingSchema } from "../domain/bookings.ts";
import { type Change, changeSchema } from "../domain/changes.ts";
import { type Command, isCommand } from "../domain/commands.ts";
import {
  EVENT_STATUSES,
  eventSchema,
  INTAKES,
  type Snapshot,
  snapshotSchema,
  snapshotsAmong,
} from "../domain/events.ts";
import { checkedId, parseBookingId, parseCanonicalUuid, parseEventId, parseUserId } from "../domain/ids.ts";
import { LIMITS } from "../domain/limits.ts";
import { type RequestState, requestStateSchema } from "../domain/requests.ts";
import { newWebhookSchema, webhookSchema } from "../domain/webhooks.ts";
import { wireShardMapSchema } from "./shard-map.ts";
import { type CommandResult, decisionSchemas, type Failure, failureSchema } from "../domain/outcomes.ts";

/** The header of each call and each answer carries it. Routers and nodes of different versions refuse each other. */
export const RPC_VERSION = "4";
export const RPC_VERSION_HEADER = "onsale-rpc";
/** The type of an answer that comes in lines of JSON. */
export const LINES_TYPE = "application/x-ndjson";
/** Returns why `own` and `other` cannot talk, from the other's header; undefined when they can. */
export function rpcVersionProblem(
  header: string | undefined,
  [own, other]: readonly ["node", "router"] | readonly ["router", "node"] = ["node", "router"],
): string | undefined {
  if (header === RPC_VERSION) return undefined;
  const spoken = header === undefined ? "named no version" : `spoke ${header.slice(0, 20)}`;
  return `this ${own} speaks RPC ${RPC_VERSION}; the ${other} ${spoken}`;
}

const eventId = checkedId(parseEventId, "must be a UUID");
const bookingId = checkedId(parseBookingId, "must be a UUID");
const userId = checkedId(parseUserId, "must be a user id");

export const commandsRequestSchema = z.object({
  /** When the router sent the call. By the router's clock, like the deadlines: the node's clock may differ. */
  sentAt: z.number().int(),
  commands: z.custom<Command[]>(
    (commands) => Array.isArray(commands) && commands.length > 0 && commands.every(isCommand),
  ),
  /** The traces of sampled commands (W3C Trace Context). `command` is the command's position. */
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
  /** One per command, in the order of the commands; in a line of a stream, one per position. */
  readonly results: readonly CommandResult[];
  /** Only in a line of a stream: which commands the results are for. */
  readonly positions?: readonly number[] | undefined;
  /** The newest version of each event that the commands touched. */
  readonly snapshots: readonly Snapshot[];
  readonly mapVersion: number;
}
export const commandsAnswerSchema: z.ZodType<CommandsResponse | Failure> = z.union([
  z.object({
    results: z.array(z.discriminatedUnion("outcome", [...decisionSchemas, failureSchema])),
    positions: z.array(z.number().int().min(0)).optional(),
    snapshots: z.array(z.unknown()).transform(snapshotsAmong),
    mapVersion: z.number(),
  }),
  failureSchema,
]);

/** The answer to the question for the map, which is also how a router finds out whether a node can serve again. */
export const mapAnswerSchema = wireShardMapSchema.extend({
  /** Whether the shard's database took a write when the node last checked. */
  databaseUp: z.boolean(),
});

/** Reads events, bookings or booking requests. Results are in the order of the ids. */
export const readRequestSchema = z.discriminatedUnion("kind", [
  z.object({
    kind: z.literal("event"),
    ids: z.array(eventId).min(1),
    /** For each id, how old the result may be when the call arrives. Without it, no replica may answer. */
    maxAgesMs: z.array(z.number().nonnegative()).optional(),
  }),
  z.object({ kind: z.enum(["booking", "request"]), ids: z.array(bookingId).min(1) }),
]);
export type ReadResult<T> =
  /** Only a replica gives `ageMs`: at most so long before the call arrived, the primary had this value. */
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
export const requestsAnswerSchema = readAnswerOf<RequestState>(requestStateSchema);

export const listRequestSchema = z.object({
  before: eventId.nullable(),
  limit: z
    .number()
    .int()
    .min(1)
    .max(LIMITS.pageItemsMax + 1),
  /** How old the list may be when the call arrives. Without it, no replica may answer. */
  maxAgeMs: z.number().nonnegative().optional(),
});
const listResponseSchema = z.object({
  events: z.array(eventSchema),
  /** Only a replica gives it: at most so long before the call arrived, the primary had this list. */
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
  ownerId: userId,
  name: z.string(),
  venue: z.string().nullable(),
  startsAt: time,
  salesStartAt: time.nullable(),
  salesEndAt: time.nullable(),
  totalTickets: z.number().int(),
  maxPerUser: z.number().int(),
  /** The organizer's Idempotency-Key. `content` is a digest of the request: under one key it must be one (B12). */
  claim: z.object({ key: z.string(), content: z.string() }).optional(),
});
export type CreateEventRequest = z.infer<typeof createEventRequestSchema>;

export const changeEventRequestSchema = z.object({
  id: eventId,
  /** Who wants the change. */
  organizer: userId,
  changes: z.object({
    name: z.string().optional(),
    venue: z.string().nullable().optional(),
    startsAt: time.optional(),
    salesStartAt: time.nullable().optional(),
    salesEndAt: time.nullable().optional(),
    totalTickets: z.number().int().optional(),
    maxPerUser: z.number().int().optional(),
    intake: z.enum(INTAKES).optional(),
    status: z.enum(EVENT_STATUSES).optional(),
  }),
  /** The event must have one of them. Without it, every version will do. */
  versions: z.array(z.number().int()).optional(),
});
export type ChangeEventRequest = z.infer<typeof changeEventRequestSchema>;

/** The answer when an event is created or changed. */
export const eventAnswerSchema = z.discriminatedUnion("outcome", [
  /** Of a key that was used before, the event that it created. */
  z.object({ outcome: z.literal("saved"), snapshot: snapshotSchema }),
  /** A snapshot too: the node may have ended holds that were due, and a client with an old version asks for the newest. */
  z.object({
    outcome: z.enum(["below_sold", "invalid_sales_window", "version_mismatch"]),
    snapshot: snapshotSchema,
  }),
  z.object({ outcome: z.enum(["event_not_found", "forbidden", "idempotency_key_reused", "wrong_shard"]) }),
  failureSchema,
]);
export type EventResult = Readonly<z.infer<typeof eventAnswerSchema>>;

const ofWebhooks = {
  eventId,
  /** Who asks; null is an operator. */
  caller: userId.nullable(),
};
/** Adds a webhook to an event, lists its webhooks, or removes one. */
export const webhooksRequestSchema = z.discriminatedUnion("action", [
  z.object({
    action: z.literal("create"),
    ...ofWebhooks,
    ...newWebhookSchema.shape,
  }),
  z.object({ action: z.literal("list"), ...ofWebhooks }),
  z.object({ action: z.literal("delete"), ...ofWebhooks, id: z.string() }),
]);
export type WebhooksRequest = Readonly<z.infer<typeof webhooksRequestSchema>>;
export const webhooksAnswerSchema = z.discriminatedUnion("outcome", [
  /** Of an id that was used before, the webhook that it made. */
  z.object({ outcome: z.literal("created"), webhook: newWebhookSchema }),
  z.object({ outcome: z.literal("listed"), webhooks: z.array(webhookSchema) }),
  z.object({ outcome: z.literal("deleted") }),
  z.object({ outcome: z.enum(["event_not_found", "forbidden", "too_many_webhooks", "wrong_shard"]) }),
  /** Nobody is told at that URL. */
  z.object({ outcome: z.literal("forbidden_target"), reason: z.string() }),
  failureSchema,
]);
export type WebhooksResult = Readonly<z.infer<typeof webhooksAnswerSchema>>;
/** What it is called when it was done. */
export type WebhooksDone = "created" | "listed" | "deleted";

/** How long a follower of the log may have its node wait for the next change. */
const CHANGES_WAIT_MAX_MS = 10_000;

/** Bookings in an answer to a follower. More only if one change alone has more: a change comes whole. */
export const ANSWER_BOOKINGS_MAX = 1_000;

export const changesRequestSchema = z.object({
  /** Who follows; a name for each, the same in every call. */
  follower: z.string().regex(/^[a-z0-9][a-z0-9-]{0,31}$/),
  /** The position of the last answer. Null asks where the log ends now. */
  after: z.number().int().nonnegative().nullable(),
  /** How long to wait for a change when there is none. */
  waitMs: z.number().int().min(0).max(CHANGES_WAIT_MAX_MS),
});
export type ChangesRequest = z.infer<typeof changesRequestSchema>;

/** The answer to a follower. Only followers use it, and each of them is a client of its own of this RPC. */
export const changesAnswerSchema = z.discriminatedUnion("outcome", [
  z.object({
    outcome: z.literal("changes"),
    /** In order; none when nothing happened in time. Each change comes whole. */
    changes: z.array(changeSchema),
    /** To ask for what comes next. */
    position: z.number(),
    /** By the clock of the shard's database: everything that was committed until then is at this position or before. */
    asOf: z.string(),
  }),
  /** Changes after that position are not kept any more, or it is not of this log: the follower must start anew. */
  z.object({ outcome: z.literal("position_dropped") }),
  failureSchema,
]);
export type ChangesAnswer =
  | {
      readonly outcome: "changes";
      readonly changes: readonly Change[];
      readonly position: number;
      readonly asOf: string;
    }
  | { readonly outcome: "position_dropped" }
  | Failure;

/** Rows on a page of a copy. */
export const COPY_PAGE_MAX = 1_000;

/**
 * A page of all events, or of all bookings, of a shard in the order of their ids: for whoever knows nothing yet, and follows
 * the log from where it ended before the first page.
 */
export const copyRequestSchema = z.object({
  kind: z.enum(["events", "bookings"]),
  /** The last id of the page before. */
  after: checkedId(parseCanonicalUuid, "must be a UUID").nullable(),
  limit: z.number().int().min(1).max(COPY_PAGE_MAX),
});
export type CopyRequest = z.infer<typeof copyRequestSchema>;

const copiedBookingSchema = bookingSchema.extend({
  /** When it was confirmed, if it ever was, and that is known. */
  confirmedAt: z.string().nullable(),
});
export type CopiedBooking = Readonly<z.infer<typeof copiedBookingSchema>>;

/** Rows as they are now: a due hold is still held, as in the log. */
const copyPageSchema = z.object({
  outcome: z.literal("copied"),
  events: z.array(eventSchema),
  bookings: z.array(copiedBookingSchema),
  /** To ask for the next page; null after the last one. */
  next: z.string().nullable(),
});
export type CopyPage = Readonly<z.infer<typeof copyPageSchema>>;
export const copyAnswerSchema: z.ZodType<CopyPage | Failure> = z.union([copyPageSchema, failureSchema]);

/** The paths of the RPC. The map is GET; all others are POST with a JSON body. */
export const RPC = {
  commands: "/rpc/commands",
  read: "/rpc/read",
  list: "/rpc/events/list",
  createEvent: "/rpc/events/create",
  changeEvent: "/rpc/events/change",
  changes: "/rpc/changes",
  webhooks: "/rpc/webhooks",
  copy: "/rpc/copy",
  map: "/rpc/map",
} as const;
