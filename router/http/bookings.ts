/** Bookings: book, hold, confirm, cancel and read them. */
import type { IncomingMessage } from "node:http";
import { z } from "@hono/zod-openapi";
import { type IdempotencyKey, parseIdempotencyKey, type UserId } from "../../shared/ids.ts";
import type { Caller } from "../../shared/tokens.ts";
import type { SettleCommand } from "../../shared/wire.ts";
import { SOLD_OUT, type Wish } from "../booker.ts";
import { problemOf } from "../outcomes.ts";
import type { RouterParts } from "../parts.ts";
import { answerJson, type AnswerHeaders, answerProblem, preparedProblem } from "./answers.ts";
import { traceOf } from "./request-trace.ts";
import { type Asked, invalid, type Routes } from "./routes.ts";
import { bookingBody, bookingId, bookingSchema, emptyBody, eventId, holdBody } from "./schemas.ts";

const KEY_HEADER = "idempotency-key";
const REPLAYED_HEADER = "idempotency-replayed";

export function addBookingRoutes(routes: Routes, parts: RouterParts): void {
  const { cluster, booker, commandDeadlineMs: budgetMs } = parts;
  const theBooking = { description: "The booking.", schema: bookingSchema };
  const keyHeaders = z.object({ [KEY_HEADER]: z.string().optional() });

  const book = async ({ incoming, requestId, span }: Asked, wish: Wish): Promise<Response> => {
    const given = keyOf(incoming);
    const traceId = traceOf(incoming)?.traceId;
    if (booker.isRefused(wish.eventId, given))
      return traceId === undefined ? soldOut(requestId) : answerProblem(SOLD_OUT, requestId, traceId);
    const answer = await booker.book(wish, given, span);
    if ("problem" in answer) {
      const more: AnswerHeaders = answer.key === undefined ? {} : { [KEY_HEADER]: answer.key };
      return answerProblem(answer.problem, requestId, traceId, more);
    }
    const headers: AnswerHeaders = { location: `/v1/bookings/${answer.booking.id}` };
    if (answer.replayed) headers[REPLAYED_HEADER] = "true";
    return answerJson(201, answer.booking, requestId, headers);
  };

  const settle = async (
    { requestId, span }: Asked,
    kind: SettleCommand["kind"],
    id: SettleCommand["bookingId"],
    userId: UserId | null,
  ): Promise<Response> => {
    const result = await booker.decide({ kind, bookingId: id, userId, budgetMs }, span);
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
      return book(asked, {
        kind: "book",
        eventId: id,
        userId: caller.userId,
        quantity: body.quantity,
        budgetMs,
      });
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
      return book(asked, { kind: "hold", eventId: id, userId: caller.userId, ...body, budgetMs });
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
    (asked) => settle(asked, "confirm", asked.id, asked.caller.userId),
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
    (asked) => settle(asked, "cancel", asked.id, ownerOrNobody(asked.caller)),
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

const soldOut = preparedProblem(SOLD_OUT);

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
