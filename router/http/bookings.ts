/** Bookings: book, hold, confirm, cancel and read them. */
import type { BookCommand, Command, SettleCommand } from "../../shared/domain/commands.ts";
import {
  type BookingId,
  type EventId,
  type IdempotencyKey,
  newIdempotencyKey,
  slotOfBooking,
  type UserId,
} from "../../shared/domain/ids.ts";
import type { CommandResult } from "../../shared/domain/outcomes.ts";
import { slotOf } from "../../shared/domain/slots.ts";
import type { Span } from "../../shared/watch/tracing.ts";
import { type Caller, ROLES } from "../callers/tokens.ts";
import { acceptedResponse, isForQueue, type RequestParts } from "./booking-requests.ts";
import { keyOf, REPLAYED_HEADER, unknownUnder } from "./idempotency.ts";
import { positionHeader } from "./position.ts";
import { type ProblemCode, problemOf } from "./problems.ts";
import { traceOf } from "./request-trace.ts";
import { jsonResponse, preparedProblem, problemResponse, type ResponseHeaders } from "./responses.ts";
import type { Routes, SecuredRequest } from "./routes.ts";
import {
  bookingBody,
  bookingHeaders,
  bookingId,
  bookingSchema,
  emptyBody,
  eventId,
  holdBody,
  requestSchema,
} from "./schemas.ts";

export interface BookingParts extends RequestParts {
  readonly commandDeadlineMs: number;
}

/** What a client wants of an event. */
type Wanted =
  | { readonly kind: "book"; readonly quantity: number }
  | { readonly kind: "hold"; readonly quantity: number; readonly ttlSeconds: number };

const BOOKING_REFUSALS = [
  "event_not_found",
  "sold_out",
  "insufficient_tickets",
  "user_limit_exceeded",
  "sales_not_open",
  "idempotency_key_reused",
  "outcome_unknown",
] as const satisfies readonly ProblemCode[];

/** Nearly every client gets this problem once the last ticket is gone, so its response is prepared. */
const soldOutResponse = preparedProblem(problemOf({ outcome: "sold_out" }));

export function addBookingRoutes(routes: Routes, parts: BookingParts): void {
  const { cluster, cache, metrics, clock, commandDeadlineMs } = parts;
  const theBooking = { description: "The booking.", schema: bookingSchema };
  const theRequest = {
    description: "The queue has the request; its receipt says what becomes of it.",
    schema: requestSchema,
    headers: ["location", "retry-after", "preference-applied"],
  } as const;
  // Whole milliseconds: a fraction has a dozen more digits to write, send and read.
  const deadline = (): number => Math.round(clock.elapsed()) + commandDeadlineMs;

  const decide = async (command: Command, span: Span | undefined): Promise<CommandResult> => {
    const result = await cluster.command(command, span);
    metrics.outcome(result.outcome);
    return result;
  };

  const book = async (request: SecuredRequest<EventId>, wanted: Wanted): Promise<Response> => {
    const { incoming, requestId, span, id, caller } = request;
    // Counted from here: a look at the event's intake may take a while.
    const routed = { slot: slotOf(id), deadline: deadline() };
    const commandWith = (key: IdempotencyKey): BookCommand => ({
      ...wanted,
      ...routed,
      eventId: id,
      userId: caller.userId,
      key,
    });
    const clientKey = keyOf(incoming);
    const traceId = traceOf(incoming)?.traceId;
    const forQueue = isForQueue(parts, request);
    if (forQueue === true || (forQueue !== false && (await forQueue))) {
      const key = clientKey ?? newIdempotencyKey();
      const accepted = await acceptedResponse(parts, request, commandWith(key));
      if (accepted !== undefined) return accepted;
    }
    // A retry with a key must find its booking, so memory refuses only requests without a key.
    if (clientKey === undefined && cache.isSoldOut(id)) {
      metrics.soldOutFast();
      metrics.outcome("sold_out");
      return soldOutResponse(requestId, traceId);
    }
    const key = clientKey ?? newIdempotencyKey();
    const result = await decide(commandWith(key), span);
    if ("booking" in result) {
      const headers: ResponseHeaders = {
        location: `/v1/bookings/${result.booking.id}`,
        ...positionHeader(result),
      };
      // Without a client's key, only this request's own second try can be a replay.
      if (result.outcome === "replayed" && clientKey !== undefined) headers[REPLAYED_HEADER] = "true";
      return jsonResponse(201, result.booking, requestId, headers);
    }
    const problem = result.outcome === "outcome_unknown" ? unknownUnder(key) : problemOf(result);
    return problemResponse(problem, requestId, traceId);
  };

  const settle = async (
    { id, requestId, span }: SecuredRequest<BookingId>,
    kind: SettleCommand["kind"],
    userId: UserId | null,
  ): Promise<Response> => {
    const command = { kind, bookingId: id, slot: slotOfBooking(id), userId, deadline: deadline() };
    const result = await decide(command, span);
    if ("booking" in result) return jsonResponse(200, result.booking, requestId, positionHeader(result));
    throw problemOf(result);
  };

  routes.secured(
    {
      method: "post",
      path: "/v1/events/{id}/bookings",
      summary: "Book tickets",
      tag: "bookings",
      id: eventId,
      headers: bookingHeaders,
      body: bookingBody,
      responses: { 201: { ...theBooking, headers: ["location", "onsale-position"] }, 202: theRequest },
      refusals: BOOKING_REFUSALS,
    },
    ["buyer"],
    (request) => {
      const { quantity } = request.body;
      return book(request, { kind: "book", quantity });
    },
  );

  routes.secured(
    {
      method: "post",
      path: "/v1/events/{id}/holds",
      summary: "Hold tickets for a while",
      tag: "bookings",
      id: eventId,
      headers: bookingHeaders,
      body: holdBody,
      responses: { 201: { ...theBooking, headers: ["location", "onsale-position"] }, 202: theRequest },
      refusals: BOOKING_REFUSALS,
    },
    ["buyer"],
    (request) => {
      const { quantity, ttlSeconds } = request.body;
      return book(request, { kind: "hold", quantity, ttlSeconds });
    },
  );

  routes.secured(
    {
      method: "post",
      path: "/v1/bookings/{id}/confirm",
      summary: "Confirm a hold",
      tag: "bookings",
      id: bookingId,
      body: emptyBody,
      responses: { 200: { ...theBooking, headers: ["onsale-position"] } },
      refusals: ["booking_not_found", "hold_expired", "sales_not_open", "outcome_unknown"],
    },
    ROLES,
    // Not even an operator confirms somebody else's hold.
    (request) => settle(request, "confirm", request.caller.userId),
  );

  routes.secured(
    {
      method: "delete",
      path: "/v1/bookings/{id}",
      summary: "Cancel a booking",
      tag: "bookings",
      id: bookingId,
      body: emptyBody,
      responses: { 200: { ...theBooking, headers: ["onsale-position"] } },
      refusals: ["booking_not_found", "outcome_unknown"],
    },
    ROLES,
    (request) => settle(request, "cancel", requiredOwner(request.caller)),
  );

  routes.secured(
    {
      method: "get",
      path: "/v1/bookings/{id}",
      summary: "Read a booking",
      tag: "bookings",
      id: bookingId,
      responses: { 200: theBooking },
      refusals: ["booking_not_found", "shard_unavailable"],
    },
    ROLES,
    async ({ id, caller, requestId, span }) => {
      const read = await cluster.readBooking(id, span);
      const owner = requiredOwner(caller);
      if (read.outcome === "found" && (owner === null || read.value.userId === owner))
        return jsonResponse(200, read.value, requestId, { "cache-control": "private, no-store" });
      // A booking of another user gets the problem of an absent one. Otherwise a client could test which ids exist.
      if (read.outcome === "found" || read.outcome === "absent")
        throw problemOf({ outcome: "booking_not_found" });
      throw problemOf(read);
    },
  );
}

/** The user who must own the booking; null for an operator, who may act on every booking. */
function requiredOwner({ userId, role }: Caller): UserId | null {
  return role === "operator" ? null : userId;
}
