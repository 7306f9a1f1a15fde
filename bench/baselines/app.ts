/**
 * The HTTP server that all baselines share: what a good team would write around any of the strategies, and no more. The
 * token is checked before the body is read, input is validated by schema, refusals are problem documents with onsale's codes.
 */
import { randomUUIDv7 } from "node:crypto";
import { type Context, Hono } from "hono";
import { z } from "zod";
import { PROBLEMS, type ProblemCode } from "../../router/http/problems.ts";
import { bodyOf, BodyError } from "../../shared/process/connections.ts";
import type { Fetch, HttpEnv } from "../../shared/process/http-server.ts";
import type { TokenVerifier } from "../../router/callers/tokens.ts";
import { isOverload } from "./pool.ts";
import type { BookingRequest, Decision, Strategy } from "./strategy.ts";

const BODY_MAX_BYTES = 16 * 1024;
const BEARER = /^Bearer +([A-Za-z0-9\-._~+/]+=*)$/i;
const JSON_TYPE = "application/json; charset=utf-8";

const params = z.uuid().transform((id) => id.toLowerCase());
const body = z.strictObject({ quantity: z.int().min(1).max(100) });

export function createApp(strategy: Strategy, verifier: TokenVerifier): Fetch {
  const app = new Hono<HttpEnv>();
  app.onError((error) => answerError(error));
  app.notFound(() => refuse("not_found"));
  app.post("/v1/events/:id/bookings", async (context) => {
    const token = BEARER.exec(context.env.incoming.headers.authorization ?? "")?.[1];
    const caller = token === undefined ? undefined : await verifier.verify(token);
    if (typeof caller !== "object") return refuse("unauthenticated");
    const asked = await read(context);
    if (asked === undefined) return refuse("invalid_request");
    const booking = {
      ...asked,
      id: randomUUIDv7(),
      userId: caller.userId,
      createdAt: new Date().toISOString(),
    };
    return answer(booking, await strategy.book(booking));
  });
  return (request, env) => app.fetch(request, env);
}

/** The request, or undefined when it is not valid. */
async function read(context: Context<HttpEnv>): Promise<{ eventId: string; quantity: number } | undefined> {
  const { incoming } = context.env;
  if (incoming.headers["content-type"]?.startsWith("application/json") !== true) return undefined;
  const eventId = params.safeParse(context.req.param("id"));
  const wanted = body.safeParse(JSON.parse(await bodyOf(incoming, BODY_MAX_BYTES)));
  return eventId.success && wanted.success ? { eventId: eventId.data, ...wanted.data } : undefined;
}

function answer(booking: BookingRequest, decision: Decision): Response {
  const { outcome, ...members } = decision;
  if (outcome !== "booked") return refuse(outcome, members);
  return new Response(JSON.stringify({ ...booking, status: "confirmed" }), {
    status: 201,
    headers: { "content-type": JSON_TYPE, location: `/v1/bookings/${booking.id}` },
  });
}

/** A problem document (RFC 9457). */
function refuse(code: ProblemCode, members: object = {}): Response {
  const { status, title } = PROBLEMS[code];
  return new Response(
    JSON.stringify({ type: `urn:onsale:problem:${code}`, title, status, code, ...members }),
    {
      status,
      headers: { "content-type": "application/problem+json; charset=utf-8" },
    },
  );
}

function answerError(error: Error): Response {
  if (isOverload(error)) return refuse("overloaded");
  if (error instanceof SyntaxError || error instanceof BodyError) return refuse("invalid_request");
  process.stderr.write(`a request failed: ${error.stack ?? error.message}\n`);
  return refuse("internal");
}
