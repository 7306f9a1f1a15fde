/**
 * The HTTP server that all baselines share: what a good team would write around any of the strategies, and no more. The
 * token is checked before the body is read, input is validated by schema, refusals are problem documents with onsale's codes.
 */
import { randomUUIDv7 } from "node:crypto";
import Fastify, { type FastifyError, type FastifyInstance, type FastifyReply } from "fastify";
import { PROBLEMS, type ProblemCode } from "../../shared/errors.ts";
import type { TokenVerifier } from "../../shared/tokens.ts";
import { isOverload } from "./pool.ts";
import type { BookingRequest, Decision, Strategy } from "./strategy.ts";

const BODY_MAX_BYTES = 16 * 1024;
const KEEP_ALIVE_MS = 65_000;
const BEARER = /^Bearer +([A-Za-z0-9\-._~+/]+=*)$/i;
const BUYER = "buyer";

const schema = {
  params: { type: "object", required: ["id"], properties: { id: { type: "string", format: "uuid" } } },
  body: {
    type: "object",
    required: ["quantity"],
    additionalProperties: false,
    properties: { quantity: { type: "integer", minimum: 1, maximum: 100 } },
  },
  // Known shapes are written faster than JSON.stringify writes them.
  response: {
    201: {
      type: "object",
      properties: {
        id: { type: "string" },
        eventId: { type: "string" },
        userId: { type: "string" },
        quantity: { type: "integer" },
        status: { type: "string" },
        createdAt: { type: "string" },
      },
    },
  },
};

export function createApp(strategy: Strategy, verifier: TokenVerifier): FastifyInstance {
  const app = Fastify({
    bodyLimit: BODY_MAX_BYTES,
    keepAliveTimeout: KEEP_ALIVE_MS,
    return503OnClosing: false,
    ajv: { customOptions: { coerceTypes: false, removeAdditional: false } },
  });
  app.decorateRequest(BUYER, "");
  app.setErrorHandler(async (error: FastifyError, _request, reply) => answerError(error, reply));
  app.setNotFoundHandler(async (_request, reply) => refuse(reply, "not_found"));
  app.post<{ Params: { id: string }; Body: { quantity: number } }>(
    "/v1/events/:id/bookings",
    {
      schema,
      async onRequest(request, reply) {
        const token = BEARER.exec(request.headers.authorization ?? "")?.[1];
        const caller = token === undefined ? undefined : await verifier.verify(token);
        if (caller === undefined) return refuse(reply, "unauthenticated");
        request.setDecorator(BUYER, caller.userId);
        return undefined;
      },
    },
    async (request, reply) => {
      const booking = {
        id: randomUUIDv7(),
        eventId: request.params.id.toLowerCase(),
        userId: request.getDecorator<string>(BUYER),
        quantity: request.body.quantity,
        createdAt: new Date().toISOString(),
      };
      return answer(reply, booking, await strategy.book(booking));
    },
  );
  return app;
}

function answer(reply: FastifyReply, booking: BookingRequest, decision: Decision): FastifyReply {
  const { outcome, ...members } = decision;
  if (outcome !== "booked") return refuse(reply, outcome, members);
  return reply
    .code(201)
    .header("location", `/v1/bookings/${booking.id}`)
    .send({ ...booking, status: "confirmed" });
}

/** A problem document (RFC 9457). */
function refuse(reply: FastifyReply, code: ProblemCode, members: object = {}): FastifyReply {
  const { status, title } = PROBLEMS[code];
  return reply
    .code(status)
    .header("content-type", "application/problem+json; charset=utf-8")
    .send(JSON.stringify({ type: `urn:onsale:problem:${code}`, title, status, code, ...members }));
}

function answerError(error: FastifyError, reply: FastifyReply): FastifyReply {
  if (isOverload(error)) return refuse(reply, "overloaded");
  if (error.validation !== undefined || (error.statusCode !== undefined && error.statusCode < 500))
    return refuse(reply, "invalid_request");
  process.stderr.write(`a request failed: ${error.stack ?? error.message}\n`);
  return refuse(reply, "internal");
}
