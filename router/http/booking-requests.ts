/**
 * Booking requests: bookings that wait in the queue for their decision. Who prefers that gets a receipt as soon as the broker
 * has the request (`Prefer: respond-async`, RFC 7240 §4.1), and so does everybody who books an event whose intake is `queue`. A
 * receipt is answered by any router, from the shard alone.
 */
import type { IncomingMessage } from "node:http";
import type { BookCommand } from "../../shared/domain/commands.ts";
import { type BookingId, type EventId, timeOf, type UserId } from "../../shared/domain/ids.ts";
import type { Failure } from "../../shared/domain/outcomes.ts";
import type { RequestState } from "../../shared/domain/requests.ts";
import type { Clock } from "../../shared/process/clock.ts";
import { Places } from "../../shared/process/under-way.ts";
import type { ReadResult } from "../../shared/wire/rpc.ts";
import type { EventCache } from "../cache/event-cache.ts";
import { ROLES } from "../callers/tokens.ts";
import type { RouterMetrics } from "../metrics.ts";
import type { BookingQueue } from "../queue/booking-queue.ts";
import type { Receipt, Receipts } from "../queue/receipts.ts";
import type { Cluster } from "../shards/cluster.ts";
import { streamOfEvents } from "./event-stream.ts";
import { unknownUnder } from "./idempotency.ts";
import { accepts } from "./input.ts";
import { Problem, problemOf } from "./problems.ts";
import { traceOf } from "./request-trace.ts";
import { jsonResponse, problemDocument, type ResponseHeaders, RETRY_AFTER_SECONDS } from "./responses.ts";
import type { Routes, SecuredRequest } from "./routes.ts";
import { type BookingRequest, receiptId, requestSchema } from "./schemas.ts";

export interface RequestParts {
  readonly cluster: Cluster;
  readonly cache: EventCache;
  readonly metrics: RouterMetrics;
  readonly clock: Clock;
  /** undefined without a broker: then everybody waits for the decision. */
  readonly queue: BookingQueue | undefined;
  readonly receipts: Receipts;
  /** Ends the streams: their clients ask another router. */
  readonly draining: AbortSignal;
}

/** Streams of one user, and of all. */
const STREAMS_OF_USER_MAX = 4;
const STREAMS_MAX = 1_000;

const NOT_FOUND = new Problem(
  "booking_request_not_found",
  "There is no booking request of yours with this receipt.",
);

/** Whether a booking is for the queue. A promise only for an event that memory does not know: nobody else waits for a read. */
export function isForQueue(
  { queue, cache }: RequestParts,
  { incoming, id, span }: Pick<SecuredRequest<EventId>, "incoming" | "id" | "span">,
): boolean | Promise<boolean> {
  if (queue?.up !== true) return false;
  const isPreferred = prefersAsync(incoming);
  const intake = cache.known(id)?.intake;
  // No answer of a shard says here that the owner has taken the event out of the queue. A read does, for those who come next.
  if (intake === "queue") void cache.read(id, span);
  if (intake !== undefined) return isPreferred || intake === "queue";
  return (async () => {
    const read = await cache.read(id, span);
    // Only the shard says that there is no such event: a replica may not have it yet.
    if (read.outcome === "absent") return false;
    // A shard that is away does not stop the queue.
    return isPreferred || (read.outcome === "found" && read.event.snapshot.event.intake === "queue");
  })();
}

/** Offers the command to the queue. Returns undefined when there is none, and the command must be decided directly. */
export async function acceptedResponse(
  { queue, cluster, metrics, receipts }: RequestParts,
  { incoming, requestId }: Pick<SecuredRequest<EventId>, "incoming" | "requestId">,
  command: BookCommand,
): Promise<Response | undefined> {
  const owner = cluster.ownerOf(command.slot);
  if (queue === undefined || owner === undefined) return undefined;
  const { published, request } = await queue.offer(owner, command);
  switch (published) {
    case "confirmed": {
      const { requestId: bookingId, eventId, userId, quantity, kind } = request;
      const given = { bookingId, eventId, kind, quantity };
      const receipt = receipts.give(given, userId);
      const headers: ResponseHeaders = {
        location: `/v1/booking-requests/${receipt}`,
        "retry-after": String(RETRY_AFTER_SECONDS),
      };
      if (prefersAsync(incoming)) headers["preference-applied"] = "respond-async";
      return jsonResponse(
        202,
        { ...named(receipt, given), status: "queued", ahead: null },
        requestId,
        headers,
      );
    }
    case "refused":
      metrics.shed("queue_full");
      throw new Problem("overloaded", "The queue of this event is full; nothing was done.");
    case "unknown":
      throw unknownUnder(command.key);
    case "away":
      return undefined;
  }
}

export function addRequestRoutes(routes: Routes, parts: RequestParts): void {
  const { cluster, receipts, metrics, clock, draining } = parts;
  const streams = new Places(STREAMS_OF_USER_MAX, STREAMS_MAX);

  routes.secured(
    {
      method: "get",
      path: "/v1/booking-requests/{receipt}",
      summary: "Read a booking request",
      description:
        "With `Accept: text/event-stream` the request comes at once and whenever it changes; the stream ends when it is decided or lapsed.",
      tag: "bookings",
      id: receiptId,
      responses: {
        200: {
          description: "The booking request.",
          schema: requestSchema,
          headers: ["cache-control"],
          stream: "text/event-stream",
        },
      },
      refusals: ["booking_request_not_found", "rate_limited"],
    },
    ROLES,
    async ({ id: text, caller, incoming, requestId, span }) => {
      const receipt = receipts.read(text, caller.userId);
      if (receipt === undefined) throw NOT_FOUND;
      const read = async (): Promise<BookingRequest> =>
        requestFrom(
          text,
          receipt,
          await cluster.readRequest(receipt.bookingId, span),
          requestId,
          traceOf(incoming)?.traceId,
        );
      const first = await read();
      // Nobody would read the stream of a HEAD to its end.
      if (!accepts(incoming, "text/event-stream") || incoming.method === "HEAD")
        return jsonResponse(200, first, requestId, { "cache-control": "no-store" });
      const leave = enterStream(caller.userId);
      return streamOfEvents({
        first,
        next: async () => read(),
        isLast: ({ status }) => status !== "queued",
        until: caller.expiresAt,
        clock,
        ended: leave,
        stop: draining,
        requestId,
      });
    },
  );

  const enterStream = (userId: UserId): (() => void) => {
    const refused = streams.enter(userId);
    if (refused === "user") {
      metrics.shed("streams_of_user");
      throw new Problem("rate_limited", "Too many streams of this user are open; close one.");
    }
    if (refused === "all") {
      metrics.shed("streams_full");
      throw new Problem("overloaded", "Too many streams are open here; ask without a stream.");
    }
    return () => streams.leave(userId);
  };
}

function requestFrom(
  text: string,
  receipt: Receipt,
  read: ReadResult<RequestState> | Failure,
  requestId: string,
  traceId: string | undefined,
): BookingRequest {
  if (read.outcome === "absent") throw NOT_FOUND;
  if (read.outcome !== "found") throw problemOf(read);
  const { value } = read;
  const request = named(text, receipt);
  if (value.status === "queued") return { ...request, status: "queued", ahead: value.ahead };
  if (value.status === "lapsed") return { ...request, status: "lapsed", ahead: null };
  const { decision } = value;
  return "booking" in decision
    ? { ...request, status: "decided", ahead: null, booking: decision.booking }
    : {
        ...request,
        status: "decided",
        ahead: null,
        problem: problemDocument(problemOf(decision), requestId, traceId),
      };
}

function named(receipt: string, { bookingId, eventId, quantity, kind }: Receipt) {
  return { receipt, bookingId, eventId, quantity, kind, acceptedAt: acceptedAt(bookingId) };
}

function acceptedAt(id: BookingId): string {
  return new Date(timeOf(id)).toISOString();
}

/** `Prefer: respond-async`, among other preferences (RFC 7240 §2, §4.1). */
function prefersAsync({ headers: { prefer } }: IncomingMessage): boolean {
  let isQuoted = false;
  for (const part of prefer?.toString().split(",") ?? []) {
    if (!isQuoted && part.split(";", 1)[0]?.trim().toLowerCase() === "respond-async") return true;
    // A comma inside a quoted value separates nothing.
    if (part.split('"').length % 2 === 0) isQuoted = !isQuoted;
  }
  return false;
}
