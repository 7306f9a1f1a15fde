/** Bookings: book, hold, confirm, cancel and read them. */
import type { IncomingMessage } from "node:http";
import { z } from "@hono/zod-openapi";
import type { BookCommand, Command, SettleCommand } from "../../shared/domain/commands.ts";
import {
  type BookingId,
  type EventId,
  type IdempotencyKey,
  newIdempotencyKey,
  parseIdempotencyKey,
  slotOfBooking,
  type UserId,
} from "../../shared/domain/ids.ts";
import type { CommandResult } from "../../shared/domain/outcomes.ts";
import { slotOf } from "../../shared/domain/slots.ts";
import type { Span } from "../../shared/watch/tracing.ts";
import type { Caller } from "../callers/tokens.ts";
import { answerJson, type AnswerHeaders, answerProblem, preparedProblem } from "./answers.ts";
import type { RouterParts } from "./parts.ts";
import { problemOf } from "./problems.ts";
import { traceOf } from "./request-trace.ts";
import { type Asked, invalid, type Routes } from "./routes.ts";
import { bookingBody, bookingId, bookingSchema, emptyBody, eventId, holdBody } from "./schemas.ts";

const KEY_HEADER = "idempotency-key";
const REPLAYED_HEADER = "idempotency-replayed";

/** The answer to nearly everybody once the last ticket is gone, so it is made once. */
const SOLD_OUT = problemOf({ outcome: "sold_out" });
const soldOut = preparedProblem(SOLD_OUT);

export function addBookingRoutes(routes: Routes, parts: RouterParts): void {
  const { cluster, cache, metrics, clock, commandDeadlineMs } = parts;
  const theBooking = { description: "The booking.", schema: bookingSchema };
  const keyHeaders = z.object({ [KEY_HEADER]: z.string().optional() });
  // Whole milliseconds: a fraction is a dozen digits more to write, to send and to read.
  const deadline = (): number => Math.round(clock.elapsed()) + commandDeadlineMs;

  const decide = async (command: Command, span: Span | undefined): Promise<CommandResult> => {
    const result = await cluster.command(command, span);
    metrics.outcome(result.outcome);
    return result;
  };

  const book = async (
    { incoming, requestId, span, id }: Asked & { id: EventId },
    commandWith: (key: IdempotencyKey) => BookCommand,
  ): Promise<Response> => {
    const given = keyOf(incoming);
    const traceId = traceOf(incoming)?.traceId;
    // A retry with a key must find its booking, so memory refuses only requests without one.
    if (given === undefined && cache.isSoldOut(id)) {
      metrics.soldOutFast();
      metrics.outcome("sold_out");
      return traceId === undefined ? soldOut(requestId) : answerProblem(SOLD_OUT, requestId, traceId);
    }
    const key = given ?? newIdempotencyKey();
    const result = await decide(commandWith(key), span);
    if ("booking" in result) {
      const headers: AnswerHeaders = { location: `/v1/bookings/${result.booking.id}` };
      // A key made here is never seen by a client, so what it replays is this very request.
      if (result.outcome === "replayed" && given !== undefined) headers[REPLAYED_HEADER] = "true";
      return answerJson(201, result.booking, requestId, headers);
    }
    // The client needs the key to find out what became of its request.
    const more: AnswerHeaders = result.outcome === "outcome_unknown" ? { [KEY_HEADER]: key } : {};
    return answerProblem(problemOf(result), requestId, traceId, more);
  };

  const settle = async (
    { id, requestId, span }: Asked & { id: BookingId },
    kind: SettleCommand["kind"],
    userId: UserId | null,
  ): Promise<Response> => {
    const command = { kind, bookingId: id, slot: slotOfBooking(id), userId, deadline: deadline() };
    const result = await decide(command, span);
    if ("booking" in result) return answerJson(200, result.booking, requestId);
    throw problemOf(result);
  };

  routes.secured(
    {
      method: "post",
      path: "/v1/events/{id}/bookings",
      summary: "Book tickets",
      tag: "bookings",
      id: eventId,
      headers: keyHeaders,
      body: bookingBody,
      answers: { 201: theBooking },
    },
    ["buyer"],
    (asked) => {
      const { id, caller, body } = asked;
      return book(asked, (key) => ({
        kind: "book",
        eventId: id,
        slot: slotOf(id),
        userId: caller.userId,
        quantity: body.quantity,
        key,
        deadline: deadline(),
      }));
    },
  );

  routes.secured(
    {
      method: "post",
      path: "/v1/events/{id}/holds",
      summary: "Hold tickets for a while",
      tag: "bookings",
      id: eventId,
      headers: keyHeaders,
      body: holdBody,
      answers: { 201: theBooking },
    },
    ["buyer"],
    (asked) => {
      const { id, caller, body } = asked;
      return book(asked, (key) => ({
        kind: "hold",
        eventId: id,
        slot: slotOf(id),
        userId: caller.userId,
        quantity: body.quantity,
        ttlSeconds: body.ttlSeconds,
        key,
        deadline: deadline(),
      }));
    },
  );

  const anybody = ["buyer", "organizer", "operator"] as const;
  routes.secured(
    {
      method: "post",
      path: "/v1/bookings/{id}/confirm",
      summary: "Confirm a hold",
      tag: "bookings",
      id: bookingId,
      body: emptyBody,
      answers: { 200: theBooking },
    },
    anybody,
    // Only its owner may confirm a booking, whatever the caller's role.
    (asked) => settle(asked, "confirm", asked.caller.userId),
  );

  routes.secured(
    {
      method: "delete",
      path: "/v1/bookings/{id}",
      summary: "Cancel a booking",
      tag: "bookings",
      id: bookingId,
      body: emptyBody,
      answers: { 200: theBooking },
    },
    anybody,
    (asked) => settle(asked, "cancel", ownerOrNobody(asked.caller)),
  );

  routes.secured(
    {
      method: "get",
      path: "/v1/bookings/{id}",
      summary: "Read a booking",
      tag: "bookings",
      id: bookingId,
      answers: { 200: theBooking },
    },
    anybody,
    async ({ id, caller, requestId, span }) => {
      const read = await cluster.readBooking(id, span);
      const owner = ownerOrNobody(caller);
      // Somebody else's booking and none at all look alike: an id must not tell that it exists.
      if (
        read.outcome === "absent" ||
        (read.outcome === "found" && owner !== null && read.value.userId !== owner)
      ) {
        throw problemOf({ outcome: "booking_not_found" });
      }
      if (read.outcome !== "found") throw problemOf(read);
      return answerJson(200, read.value, requestId, { "cache-control": "private, no-store" });
    },
  );
}

/** Whose booking it must be: the caller's own, or anybody's (null) for an operator. */
function ownerOrNobody({ userId, role }: Caller): UserId | null {
  return role === "operator" ? null : userId;
}

function keyOf(incoming: IncomingMessage): IdempotencyKey | undefined {
  const given = incoming.headers[KEY_HEADER];
  if (given === undefined) return undefined;
  // Node.js joins repeated headers with a comma, and two keys are none. Only then are they worth telling apart.
  const isOne =
    typeof given === "string" && (!given.includes(",") || incoming.headersDistinct[KEY_HEADER]?.length === 1);
  const key = isOne ? parseIdempotencyKey(given) : undefined;
  if (key !== undefined) return key;
  throw invalid("header", [{ path: KEY_HEADER, message: "must be 1 to 128 visible ASCII characters" }]);
}
