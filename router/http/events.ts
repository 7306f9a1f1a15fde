/** Events: create, list, read and change them. */
import { z } from "@hono/zod-openapi";
import type { Event } from "../../shared/domain/events.ts";
import { type EventId, newEventId } from "../../shared/domain/ids.ts";
import type { Clock } from "../../shared/process/clock.ts";
import type { EventResult } from "../../shared/wire/rpc.ts";
import { type CachedRead, type EventCache, type MissedRead, PRIMARY_ONLY } from "../cache/event-cache.ts";
import type { Cluster } from "../shards/cluster.ts";
import { Problem, problemOf } from "./problems.ts";
import { JSON_TYPE, jsonResponse, type ResponseHeaders } from "./responses.ts";
import type { RouteRequest, Routes } from "./routes.ts";
import {
  cursorOf,
  eventBody,
  eventChanges,
  eventId,
  eventListSchema,
  eventSchema,
  listQuery,
} from "./schemas.ts";

export interface EventParts {
  readonly cluster: Cluster;
  readonly cache: EventCache;
  readonly clock: Clock;
}

const CACHE_CONTROL = "public, max-age=1, stale-while-revalidate=5";

export function addEventRoutes(routes: Routes, { cluster, cache, clock }: EventParts): void {
  const theEvent = { description: "The event.", schema: eventSchema };

  routes.secured(
    {
      method: "post",
      path: "/v1/events",
      summary: "Create an event",
      tag: "events",
      body: eventBody,
      responses: { 201: theEvent },
    },
    ["organizer"],
    async ({ body, requestId, span }) => {
      const id = newEventId(clock.now());
      const event = savedEvent(id, await cluster.createEvent({ id, ...body }, span));
      return jsonResponse(201, event, requestId, { location: `/v1/events/${event.id}` });
    },
  );

  routes.open(
    {
      method: "get",
      path: "/v1/events",
      summary: "List events, newest first",
      tag: "events",
      query: listQuery,
      responses: { 200: { description: "A page of events.", schema: eventListSchema } },
    },
    async ({ query: { limit, cursor }, requestId, span }) => {
      // One event more than the page holds shows whether there is a next page.
      const listNotBefore = async (moment: number) =>
        cluster.listEvents(cursor ?? null, limit + 1, moment, span);
      let list = await listNotBefore(cache.forgottenUntil);
      // During the call the cache may have learned and forgotten a newer version than the list has.
      if ("events" in list && list.asOf < cache.forgottenUntil) list = await listNotBefore(PRIMARY_ONLY);
      if (!("events" in list)) throw problemOf(list);
      // The cache may know a newer version than a replica's list.
      const items = list.events.slice(0, limit).map((event) => cache.newest(event));
      const last = items.at(-1);
      const nextCursor = list.events.length > limit && last !== undefined ? cursorOf(last.id) : null;
      return jsonResponse(200, { items, nextCursor }, requestId);
    },
  );

  routes.open(
    {
      method: "get",
      path: "/v1/events/{id}",
      summary: "Read an event",
      description: "Availability is advisory; a booking alone decides.",
      tag: "events",
      id: eventId,
      headers: z.object({ "if-none-match": z.string().optional() }),
      responses: { 200: theEvent, 304: { description: "The event is as you have it.", schema: null } },
    },
    (request) => {
      const read = cache.read(request.id, request.span);
      return read instanceof Promise
        ? read.then((loaded) => readResponse(loaded, request))
        : readResponse(read, request);
    },
  );

  routes.secured(
    {
      method: "patch",
      path: "/v1/events/{id}",
      summary: "Change an event",
      tag: "events",
      id: eventId,
      body: eventChanges,
      responses: { 200: theEvent },
    },
    ["organizer"],
    async ({ id, body, requestId, span }) => {
      const result = await cluster.changeEvent({ id, changes: body }, span);
      return jsonResponse(200, savedEvent(id, result), requestId);
    },
  );
}

/** With the headers of HTTP caches (RFC 9110 §8.8.3, RFC 9111 §5.2, RFC 9211 §2). */
function readResponse(
  read: CachedRead | MissedRead,
  { incoming, requestId, id }: RouteRequest<EventId>,
): Response {
  if (read.outcome === "absent") throw new Problem("event_not_found", `There is no event ${id}.`);
  if (read.outcome !== "found") throw problemOf(read);
  const { event, tier } = read;
  const headers: ResponseHeaders = {
    etag: event.etag,
    "cache-control": CACHE_CONTROL,
    "cache-status": CACHE_STATUS[tier],
    "x-request-id": requestId,
  };
  if (matches(incoming.headers["if-none-match"], event.etag))
    return new Response(null, { status: 304, headers });
  headers["content-type"] = JSON_TYPE;
  headers["content-length"] = event.body.bytes;
  return new Response(event.body.text, { status: 200, headers });
}

const CACHE_STATUS = {
  memory: "onsale; hit; detail=memory",
  redis: "onsale; hit; detail=redis",
  shard: "onsale; fwd=miss",
} as const satisfies Record<CachedRead["tier"], string>;

/** If-None-Match, by weak comparison (RFC 9110 §13.1.2). */
function matches(ifNoneMatch: string | undefined, etag: string): boolean {
  if (ifNoneMatch === undefined) return false;
  if (ifNoneMatch === etag || ifNoneMatch.trim() === "*") return true;
  const opaque = etag.replace(/^W\//, "");
  return ifNoneMatch.split(",").some((candidate) => candidate.trim().replace(/^W\//, "") === opaque);
}

function savedEvent(id: EventId, result: EventResult): Event {
  if (result.outcome === "saved") return result.snapshot.event;
  if (result.outcome !== "outcome_unknown") throw problemOf(result);
  throw new Problem(
    "outcome_unknown",
    `The shard's answer was lost. GET /v1/events/${id} shows whether the event was saved.`,
  );
}
