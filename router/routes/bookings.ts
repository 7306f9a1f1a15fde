/** Bookings: book, hold, confirm, cancel and read them. */
import type { FastifyReply, FastifyRequest } from "fastify";
import type { FastifyPluginCallbackZod } from "fastify-type-provider-zod";
import { z } from "zod";
import { Problem } from "../../shared/errors.ts";
import { type IdempotencyKey, parseIdempotencyKey, type UserId } from "../../shared/ids.ts";
import type { Caller } from "../../shared/tokens.ts";
import type { SettleCommand } from "../../shared/wire.ts";
import type { RouterParts } from "../parts.ts";
import { requireRole } from "../auth.ts";
import { SOLD_OUT, type Wish } from "../booker.ts";
import { problemOf } from "../outcomes.ts";
import { sendProblem } from "../problems.ts";
import { spanOf } from "../request-trace.ts";
import { KEY_HEADER, REPLAYED_HEADER } from "../short-bookings.ts";
import {
  bookingBody,
  bookingParams,
  bookingSchema,
  emptyBody,
  eventParams,
  holdBody,
  problemSchema,
} from "../schemas.ts";

const keyHeaders = z.object({ [KEY_HEADER]: z.string().optional() });

export function bookingRoutes(parts: RouterParts): FastifyPluginCallbackZod {
  const { cluster, verifier, booker, commandDeadlineMs: budgetMs, writeLimit } = parts;

  const book = async (request: FastifyRequest, reply: FastifyReply, wish: Wish) => {
    const given = keyOf(request);
    if (booker.isRefused(wish.eventId, given)) return sendProblem(reply, SOLD_OUT);
    const answer = await booker.book(wish, given, spanOf(request.raw));
    if ("problem" in answer) {
      if (answer.key !== undefined) reply.header(KEY_HEADER, answer.key);
      throw answer.problem;
    }
    if (answer.replayed) reply.header(REPLAYED_HEADER, "true");
    return reply.code(201).header("location", `/v1/bookings/${answer.booking.id}`).send(answer.booking);
  };

  const settle = async (
    { raw }: FastifyRequest,
    kind: SettleCommand["kind"],
    id: SettleCommand["bookingId"],
    userId: UserId | null,
  ) => {
    const result = await booker.decide({ kind, bookingId: id, userId, budgetMs }, spanOf(raw));
    if ("booking" in result) return result.booking;
    throw problemOf(result);
  };

  return (app, _options, done) => {
    const limit = { config: { rateLimit: writeLimit } };
    const buyer = { onRequest: requireRole(verifier, "buyer"), ...limit };
    const anybody = { onRequest: requireRole(verifier, "buyer", "organizer", "operator"), ...limit };
    const secured = { tags: ["bookings"], security: [{ bearer: [] }] };

    app.post(
      "/v1/events/:id/bookings",
      {
        ...buyer,
        schema: {
          summary: "Book tickets",
          ...secured,
          params: eventParams,
          headers: keyHeaders,
          body: bookingBody,
          response: { 201: bookingSchema, default: problemSchema },
        },
      },
      async (request, reply) => {
        const { userId } = request.caller;
        const { id: eventId } = request.params;
        const { quantity } = request.body;
        return book(request, reply, { kind: "book", eventId, userId, quantity, budgetMs });
      },
    );

    app.post(
      "/v1/events/:id/holds",
      {
        ...buyer,
        schema: {
          summary: "Hold tickets for a while",
          ...secured,
          params: eventParams,
          headers: keyHeaders,
          body: holdBody,
          response: { 201: bookingSchema, default: problemSchema },
        },
      },
      async (request, reply) => {
        const { userId } = request.caller;
        const { id: eventId } = request.params;
        const { quantity, ttlSeconds } = request.body;
        return book(request, reply, { kind: "hold", eventId, userId, quantity, ttlSeconds, budgetMs });
      },
    );

    app.post(
      "/v1/bookings/:id/confirm",
      {
        ...anybody,
        schema: {
          summary: "Confirm a hold",
          ...secured,
          params: bookingParams,
          body: emptyBody,
          response: { 200: bookingSchema, default: problemSchema },
        },
      },
      // Only its owner may confirm a booking, whatever the caller's role.
      async (request) => settle(request, "confirm", request.params.id, request.caller.userId),
    );

    app.delete(
      "/v1/bookings/:id",
      {
        ...anybody,
        schema: {
          summary: "Cancel a booking",
          ...secured,
          params: bookingParams,
          body: emptyBody,
          response: { 200: bookingSchema, default: problemSchema },
        },
      },
      async (request) => settle(request, "cancel", request.params.id, ownerOrNobody(request.caller)),
    );

    app.get(
      "/v1/bookings/:id",
      {
        onRequest: anybody.onRequest,
        schema: {
          summary: "Read a booking",
          ...secured,
          params: bookingParams,
          response: { 200: bookingSchema, default: problemSchema },
        },
      },
      async (request, reply) => {
        const read = await cluster.readBooking(request.params.id, spanOf(request.raw));
        const owner = ownerOrNobody(request.caller);
        // Somebody else's booking and none at all look alike: an id must not tell that it exists.
        if (
          read.outcome === "absent" ||
          (read.outcome === "found" && owner !== null && read.value.userId !== owner)
        ) {
          throw problemOf({ outcome: "booking_not_found" });
        }
        if (read.outcome !== "found") throw problemOf(read);
        return reply.header("cache-control", "private, no-store").send(read.value);
      },
    );
    done();
  };
}

/** Whose booking it must be: the caller's own, or anybody's (null) for an operator. */
function ownerOrNobody({ userId, role }: Caller): UserId | null {
  return role === "operator" ? null : userId;
}

function keyOf(request: FastifyRequest): IdempotencyKey | undefined {
  const given = request.headers[KEY_HEADER];
  if (given === undefined) return undefined;
  // Node.js joins repeated headers; two keys are none.
  const once = request.raw.headersDistinct[KEY_HEADER]?.length === 1;
  const key = once && typeof given === "string" ? parseIdempotencyKey(given) : undefined;
  if (key !== undefined) return key;
  throw new Problem("invalid_request", "The Idempotency-Key is not usable.", {
    errors: [{ path: KEY_HEADER, message: "must be 1 to 128 visible ASCII characters" }],
  });
}
