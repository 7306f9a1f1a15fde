/** Bookings: book, hold, confirm, cancel and read them. */
import type { FastifyReply, FastifyRequest } from "fastify";
import type { FastifyPluginCallbackZod } from "fastify-type-provider-zod";
import { z } from "zod";
import { Problem } from "../../shared/errors.ts";
import {
  type EventId,
  type IdempotencyKey,
  newIdempotencyKey,
  parseIdempotencyKey,
  type UserId,
} from "../../shared/ids.ts";
import type { Caller } from "../../shared/tokens.ts";
import type { BookCommand, CommandResult, SettleCommand } from "../../shared/wire.ts";
import type { RouterParts } from "../parts.ts";
import { requireRole } from "../auth.ts";
import { problemOf } from "../outcomes.ts";
import { sendProblem } from "../problems.ts";
import {
  bookingBody,
  bookingParams,
  bookingSchema,
  emptyBody,
  eventParams,
  holdBody,
  problemSchema,
} from "../schemas.ts";

const KEY_HEADER = "idempotency-key";
/** Made once and sent, not thrown: the answer to nearly everybody, once the last ticket is gone. */
const SOLD_OUT = problemOf({ outcome: "sold_out" });
const keyHeaders = z.object({ [KEY_HEADER]: z.string().optional() });

export function bookingRoutes(parts: RouterParts): FastifyPluginCallbackZod {
  const { cluster, cache, verifier, metrics, commandDeadlineMs: budgetMs, writeLimit } = parts;

  const decide = async (command: BookCommand | SettleCommand): Promise<CommandResult> => {
    const result = await cluster.command(command);
    metrics.outcome(result.outcome);
    return result;
  };

  const book = async (
    request: FastifyRequest,
    reply: FastifyReply,
    eventId: EventId,
    build: (key: IdempotencyKey) => BookCommand,
  ) => {
    const given = keyOf(request);
    // A retry with a key must find its booking, so only requests without one are refused from memory.
    if (given === undefined && cache.isSoldOut(eventId)) {
      metrics.soldOutFast();
      metrics.outcome("sold_out");
      return sendProblem(reply, SOLD_OUT);
    }
    const key = given ?? newIdempotencyKey();
    const result = await decide(build(key));
    // Who sent no key learns the one that was used, and can ask with it what became of the request.
    if (result.outcome === "outcome_unknown") reply.header(KEY_HEADER, key);
    if (!("booking" in result)) throw problemOf(result);
    // A key made here is never seen by a client, so what it replays is this very request.
    if (result.outcome === "replayed" && given !== undefined) reply.header("idempotency-replayed", "true");
    return reply.code(201).header("location", `/v1/bookings/${result.booking.id}`).send(result.booking);
  };

  const settle = async (
    kind: SettleCommand["kind"],
    id: SettleCommand["bookingId"],
    userId: UserId | null,
  ) => {
    const result = await decide({ kind, bookingId: id, userId, budgetMs });
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
        return book(request, reply, eventId, (key) => ({
          kind: "book",
          eventId,
          userId,
          quantity,
          key,
          budgetMs,
        }));
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
        return book(request, reply, eventId, (key) => ({
          kind: "hold",
          eventId,
          userId,
          quantity,
          ttlSeconds,
          key,
          budgetMs,
        }));
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
      async (request) => settle("confirm", request.params.id, request.caller.userId),
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
      async (request) => settle("cancel", request.params.id, ownerOrNobody(request.caller)),
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
        const read = await cluster.readBooking(request.params.id);
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
