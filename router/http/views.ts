/**
 * What the read side answers (rules V): the bookings of a user over all shards, the statistics of an event and its bookings.
 * Bookings and events never wait for any of it.
 */
import type { Booking } from "../../shared/domain/bookings.ts";
import type { Event } from "../../shared/domain/events.ts";
import type { BookingId, EventId, UserId } from "../../shared/domain/ids.ts";
import { streamed } from "../../shared/process/http-server.ts";
import { Places } from "../../shared/process/under-way.ts";
import type { Span } from "../../shared/watch/tracing.ts";
import { type BookingsPage, CSV_TYPE, type ReadSideUnavailable } from "../../shared/wire/read-side.ts";
import type { EventCache } from "../cache/event-cache.ts";
import type { Caller } from "../callers/tokens.ts";
import type { RouterMetrics } from "../metrics.ts";
import type { ReadSide } from "../read-side/read-side.ts";
import type { Cluster } from "../shards/cluster.ts";
import { type Position, positionOf } from "./position.ts";
import { accepts } from "./input.ts";
import { Problem, problemOf } from "./problems.ts";
import { jsonResponse } from "./responses.ts";
import type { Routes } from "./routes.ts";
import { bookingListSchema, bookingsQuery, eventId, positionHeaders, statisticsSchema } from "./schemas.ts";

export interface ViewParts {
  readonly cluster: Cluster;
  readonly cache: EventCache;
  readonly metrics: RouterMetrics;
  /** undefined when the cluster has no read side. */
  readonly readSide: ReadSide | undefined;
}

/** Questions under way of one user, and of all. */
const READS_OF_USER_MAX = 4;
const READS_MAX = 256;
/** Exports under way of one user, and of all; and how long one may take. */
const EXPORTS_OF_USER_MAX = 1;
const EXPORTS_MAX = 4;
const EXPORT_MAX_MS = 600_000;

const NO_READ_SIDE = new Problem("read_side_unavailable", "This cluster has no read side.");
const UNAVAILABLE = new Problem(
  "read_side_unavailable",
  "The read side is away, or too far behind the shards. Bookings and events are not concerned.",
);
const OF_OTHERS = new Problem(
  "forbidden",
  "Only the organizer who created an event, and operators, see its bookings and statistics.",
);

const OWN = { "cache-control": "private, no-store" };

type BookingsQuery = ReturnType<(typeof bookingsQuery)["parse"]>;

export function addViewRoutes(routes: Routes, parts: ViewParts): void {
  const { cluster, cache, metrics } = parts;
  const reads = new Places(READS_OF_USER_MAX, READS_MAX);
  const exports = new Places(EXPORTS_OF_USER_MAX, EXPORTS_MAX);
  const readSide = (): ReadSide => {
    if (parts.readSide === undefined) throw NO_READ_SIDE;
    return parts.readSide;
  };

  /** Asks within the bounds. */
  const asked = async <Answer extends { outcome: string }>(
    userId: UserId,
    ask: () => Promise<Answer | ReadSideUnavailable>,
  ): Promise<Exclude<Answer, ReadSideUnavailable>> => {
    const refused = reads.enter(userId);
    if (refused !== undefined) {
      metrics.shed(refused === "user" ? "reads_of_user" : "reads_full");
      throw refused === "user"
        ? new Problem("rate_limited", "Too many lists of this user are under way; wait for their answers.")
        : new Problem("overloaded", "Too many lists are under way here.");
    }
    try {
      const answer = await ask();
      if (answer.outcome === "read_side_unavailable") throw UNAVAILABLE;
      return answer as Exclude<Answer, ReadSideUnavailable>;
    } finally {
      reads.leave(userId);
    }
  };

  /** The event, if the caller may see what belongs to its owner. */
  const ownEvent = async (id: EventId, { userId, role }: Caller, span?: Span): Promise<Event> => {
    const read = await cache.read(id, span);
    if (read.outcome === "absent") throw problemOf({ outcome: "event_not_found" });
    if (read.outcome !== "found") throw problemOf(read);
    const { event } = read.event.snapshot;
    if (role !== "operator" && event.ownerId !== userId) throw OF_OTHERS;
    return event;
  };

  /** `found` is the page as the read side had it, `all` with what was added or taken away. */
  const pageResponse = (
    found: BookingsPage,
    all: readonly Booking[],
    { limit }: BookingsQuery,
    requestId: string,
  ): Response => {
    const hasMore = Math.max(found.items.length, all.length) > limit;
    const items = all.slice(0, limit);
    const nextCursor = hasMore ? (items.at(-1)?.id ?? null) : null;
    return jsonResponse(200, { items, nextCursor, asOf: found.asOf }, requestId, OWN);
  };
  // One booking more than the page holds shows whether there is a next page.
  const pageOf = ({ limit, cursor, status }: BookingsQuery) => ({
    before: cursor ?? null,
    limit: limit + 1,
    status: status ?? null,
  });

  routes.secured(
    {
      method: "get",
      path: "/v1/bookings",
      summary: "List your bookings, newest first",
      description: "Over all events. As of `asOf`, and with the booking that `Onsale-Position` tells of.",
      tag: "bookings",
      query: bookingsQuery,
      headers: positionHeaders,
      responses: {
        200: { description: "A page of bookings.", schema: bookingListSchema, headers: ["cache-control"] },
      },
      refusals: ["read_side_unavailable", "rate_limited"],
    },
    ["buyer"],
    async ({ incoming, caller: { userId }, query, requestId, span }) => {
      const position = positionOf(incoming);
      const page = await asked(userId, async () =>
        readSide().userBookings({ userId, ...pageOf(query), position: position ?? null }, span),
      );
      const all =
        position === undefined || page.hasPosition
          ? page.items
          : await withBooking(cluster, page.items, position, userId, query, span);
      return pageResponse(page, all, query, requestId);
    },
  );

  routes.secured(
    {
      method: "get",
      path: "/v1/events/{id}/statistics",
      summary: "Read the statistics of your event",
      tag: "events",
      id: eventId,
      responses: {
        200: { description: "The statistics.", schema: statisticsSchema, headers: ["cache-control"] },
      },
      refusals: ["event_not_found", "read_side_unavailable", "rate_limited"],
    },
    ["organizer", "operator"],
    async ({ id, caller, requestId, span }) => {
      const event = await ownEvent(id, caller, span);
      const answer = await asked(caller.userId, async () => readSide().statistics({ eventId: id }, span));
      const statistics = answer.outcome === "absent" ? nothingOf(event) : answer.statistics;
      return jsonResponse(200, { ...statistics, asOf: answer.asOf }, requestId, OWN);
    },
  );

  routes.secured(
    {
      method: "get",
      path: "/v1/events/{id}/bookings",
      summary: "List the bookings of your event, newest first",
      description: "With `Accept: text/csv` all of them as one file; `limit` and `cursor` mean nothing then.",
      tag: "events",
      id: eventId,
      query: bookingsQuery,
      responses: {
        200: {
          description: "A page of bookings.",
          schema: bookingListSchema,
          stream: "text/csv",
          headers: ["cache-control"],
        },
      },
      refusals: ["event_not_found", "read_side_unavailable", "rate_limited"],
    },
    ["organizer", "operator"],
    async ({ incoming, outgoing, id, caller, query, requestId, span }) => {
      await ownEvent(id, caller, span);
      if (!accepts(incoming, "text/csv")) {
        const page = await asked(caller.userId, async () =>
          readSide().eventBookings({ eventId: id, ...pageOf(query) }, span),
        );
        return pageResponse(page, page.items, query, requestId);
      }
      const headers = { ...OWN, "content-type": CSV_TYPE, "x-request-id": requestId };
      // Nobody reads the file of a HEAD.
      if (incoming.method === "HEAD") return new Response(null, { headers });
      const side = readSide();
      const refused = exports.enter(caller.userId);
      if (refused !== undefined) {
        metrics.shed("exports_full");
        throw refused === "user"
          ? new Problem("rate_limited", "An export of this user is under way; wait for its end.")
          : new Problem("overloaded", "Too many exports are under way here.");
      }
      const signal = AbortSignal.timeout(EXPORT_MAX_MS);
      const leave = (): void => exports.leave(caller.userId);
      const file = await side
        .bookingsCsv({ eventId: id, status: query.status ?? null }, signal)
        .catch((error) => {
          leave();
          throw error;
        });
      if (file === undefined) {
        leave();
        throw UNAVAILABLE;
      }
      file.once("close", leave);
      return streamed(outgoing, headers, file);
    },
  );
}

/** An event of which the read side has heard nothing yet: it is new, so there is nothing to count. */
function nothingOf({ id: eventId, totalTickets, availableTickets: available }: Event) {
  const none = { held: 0, confirmed: 0, cancelled: 0, expired: 0, buyers: 0, perMinute: [] };
  return { eventId, totalTickets, available, ...none };
}

/** The page with the booking of a position that the read side does not have yet, as its shard has it now. */
async function withBooking(
  cluster: Cluster,
  items: readonly Booking[],
  { bookingId }: Position,
  userId: UserId,
  { cursor, status }: BookingsQuery,
  span: Span | undefined,
): Promise<readonly Booking[]> {
  const read = await cluster.readBooking(bookingId, span);
  // A position that a client made up: the list is right as it is.
  if (read.outcome === "absent" || (read.outcome === "found" && read.value.userId !== userId)) return items;
  if (read.outcome !== "found") throw problemOf(read);
  const booking = read.value;
  const others = items.filter(({ id }) => id !== booking.id);
  const belongs =
    (status === undefined || booking.status === status) && (cursor === undefined || booking.id < cursor);
  if (!belongs) return others;
  const isNewer = (id: BookingId): boolean => id > booking.id;
  const at = others.findIndex(({ id }) => !isNewer(id));
  return others.toSpliced(at < 0 ? others.length : at, 0, booking);
}
