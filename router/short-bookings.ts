/**
 * `POST /v1/events/{id}/bookings` decided before the web framework: the path of nearly every write of a rush. It knows only
 * the commonest form of the request: a canonical id, a short body of JSON that says a quantity and nothing else, a buyer's
 * valid token. Everything else, refusals of the request itself included, takes the route in routes/bookings.ts, with the
 * body that was read here. The two give the same answers (a test holds them equal; what it saves: docs/performance.md).
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import { Readable } from "node:stream";
import type { FastifyRequest } from "fastify";
import { Problem, PROBLEMS } from "../shared/errors.ts";
import {
  type EventId,
  type IdempotencyKey,
  parseCanonicalEventId,
  parseIdempotencyKey,
} from "../shared/ids.ts";
import type { Caller } from "../shared/tokens.ts";
import { LIMITS } from "../shared/wire.ts";
import { bearerTokenOf } from "./auth.ts";
import { type BookAnswer, SOLD_OUT } from "./booker.ts";
import type { RouterParts } from "./parts.ts";
import { problemDocument, problemHeaders, problemWriter } from "./problems.ts";
import { nameSpan, traceOf } from "./request-trace.ts";
import { requestIdOf } from "./request-id.ts";
import { bodyOfJson, type ResponseBody } from "./response-body.ts";

export const KEY_HEADER = "idempotency-key";
export const REPLAYED_HEADER = "idempotency-replayed";

const ROUTE = "/v1/events/{id}/bookings";
const PREFIX = "/v1/events/";
const SUFFIX = "/bookings";
const ID_END = PREFIX.length + 36;
const URL_LENGTH = ID_END + SUFFIX.length;
/** A longer body says more than a quantity. */
const BODY_BYTES_MAX = 64;
/** What JSON allows around a number of one to three digits (RFC 8259 §2). */
const BODY = /^[ \t\r\n]*\{[ \t\r\n]*"quantity"[ \t\r\n]*:[ \t\r\n]*([1-9]\d{0,2})[ \t\r\n]*\}[ \t\r\n]*$/;

const JSON_TYPES = new Set<string | undefined>(["application/json", "application/json; charset=utf-8"]);

type Handler = (request: IncomingMessage, response: ServerResponse) => void;

/** Bodies of requests that were read here and then left to the framework. */
const readBodies = new WeakMap<IncomingMessage, Buffer>();

/** A hook of the framework (preParsing): gives it the body of a request that this path has read already. */
export function bodyOf({ raw }: FastifyRequest, payload: Readable): Readable {
  const body = readBodies.get(raw);
  return body === undefined ? payload : Readable.from([body]);
}

/** `next` is the framework. The returned handler says whether the request is its own. */
export function shortBookings(
  parts: RouterParts,
  next: Handler,
): (...request: Parameters<Handler>) => boolean {
  const { verifier, booker, commandDeadlineMs: budgetMs, writeLimit, metrics, log } = parts;
  const counted = new Map<number, (seconds: number) => void>();
  const count = (status: number, seconds: number): void => {
    let observe = counted.get(status);
    if (observe === undefined) counted.set(status, (observe = metrics.http.observer(ROUTE, "POST", status)));
    observe(seconds);
  };

  const refuse = ({ request, started }: ShortRequest, response: ServerResponse): void => {
    const requestId = requestIdOf(request);
    nameSpan(request, ROUTE, requestId);
    const traceId = traceOf(request)?.traceId;
    const extras = traceId === undefined ? { body: soldOutBody(requestId) } : { traceId };
    const status = writeProblem(response, SOLD_OUT, requestId, extras);
    count(status, (performance.now() - started) / 1000);
  };

  const book = async (
    { request, eventId, given, started }: ShortRequest,
    response: ServerResponse,
    caller: Caller,
    quantity: number,
  ): Promise<void> => {
    const requestId = requestIdOf(request);
    nameSpan(request, ROUTE, requestId);
    const trace = traceOf(request);
    let status: number;
    try {
      const wish = { kind: "book", eventId, userId: caller.userId, quantity, budgetMs } as const;
      status = writeAnswer(response, await booker.book(wish, given, trace?.span), requestId, trace?.traceId);
    } catch (error) {
      log.error({ err: error, requestId, traceId: trace?.traceId }, "a request failed");
      status = writeProblem(response, INTERNAL, requestId, { traceId: trace?.traceId });
    }
    count(status, (performance.now() - started) / 1000);
  };

  return (request, response) => {
    if (writeLimit !== false) return false;
    const short = shortRequestOf(request);
    if (short === undefined) return false;
    let body = "";
    request.on("data", (piece: Buffer) => (body += piece.toString("latin1")));
    request.on("end", () => {
      const leave = (): void => {
        readBodies.set(request, Buffer.from(body, "latin1"));
        next(request, response);
      };
      const quantity = Number(BODY.exec(body)?.[1] ?? 0);
      if (quantity === 0 || quantity > LIMITS.ticketsPerBookingMax) return leave();
      const decide = (caller: Caller | undefined): void => {
        if (caller?.role !== "buyer") leave();
        else if (booker.isRefused(short.eventId, short.given)) refuse(short, response);
        else void book(short, response, caller, quantity);
      };
      const caller = verifier.verify(short.token);
      if (caller instanceof Promise) caller.then(decide, leave);
      else decide(caller);
      return undefined;
    });
    return true;
  };
}

const soldOutBody = problemWriter(SOLD_OUT);
const INTERNAL = new Problem("internal", "This is a bug; it is logged under the request's id.");

interface ShortRequest {
  readonly request: IncomingMessage;
  readonly eventId: EventId;
  readonly token: string;
  readonly given: IdempotencyKey | undefined;
  /** By `performance.now()`. */
  readonly started: number;
}

/** The parts of a request of the common form, or undefined. */
function shortRequestOf(request: IncomingMessage): ShortRequest | undefined {
  const { method, url, headers } = request;
  if (method !== "POST" || url?.length !== URL_LENGTH) return undefined;
  if (!url.startsWith(PREFIX) || !url.endsWith(SUFFIX)) return undefined;
  if (headers.host === undefined || !JSON_TYPES.has(headers["content-type"])) return undefined;
  if (!(Number(headers["content-length"]) <= BODY_BYTES_MAX)) return undefined;
  const eventId = parseCanonicalEventId(url.slice(PREFIX.length, ID_END));
  const token = bearerTokenOf(headers.authorization);
  if (eventId === undefined || token === undefined) return undefined;
  const key = headers[KEY_HEADER];
  // Node.js joins repeated headers with a comma; whether this is one key or two is the route's to find out.
  if (typeof key === "string" && key.includes(",")) return undefined;
  const given = typeof key === "string" ? parseIdempotencyKey(key) : undefined;
  if (key !== undefined && given === undefined) return undefined;
  return { request, eventId, token, given, started: performance.now() };
}

/** Writes it and returns its status. */
function writeAnswer(
  response: ServerResponse,
  answer: BookAnswer,
  requestId: string,
  traceId: string | undefined,
): number {
  if ("problem" in answer)
    return writeProblem(response, answer.problem, requestId, { key: answer.key, traceId });
  const body = bodyOfJson(answer.booking);
  const headers: Record<string, string | number> = {
    "x-request-id": requestId,
    location: `/v1/bookings/${answer.booking.id}`,
    "content-type": "application/json; charset=utf-8",
    "content-length": body.bytes,
  };
  if (answer.replayed) headers[REPLAYED_HEADER] = "true";
  response.writeHead(201, headers).end(body.text, body.encoding);
  return 201;
}

function writeProblem(
  response: ServerResponse,
  { code, message, members }: Problem,
  requestId: string,
  {
    key,
    traceId,
    body = bodyOfJson(problemDocument(code, message, requestId, members, traceId)),
  }: ProblemExtras,
): number {
  const headers: Record<string, string | number> = problemHeaders(code);
  headers["x-request-id"] = requestId;
  headers["content-length"] = body.bytes;
  if (key !== undefined) headers[KEY_HEADER] = key;
  const { status } = PROBLEMS[code];
  response.writeHead(status, headers).end(body.text, body.encoding);
  return status;
}

interface ProblemExtras {
  /** Sent back to whoever needs it to find out what became of the request. */
  readonly key?: IdempotencyKey | undefined;
  readonly traceId?: string | undefined;
  /** Where it is made already. */
  readonly body?: ResponseBody;
}
