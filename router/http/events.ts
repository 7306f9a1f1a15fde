/** Events: create, list, read and change them. */
import { hash } from "node:crypto";
import type { Event } from "../../shared/domain/events.ts";
import { type EventId, newEventId } from "../../shared/domain/ids.ts";
import { newEventIdFor } from "../../shared/domain/slots.ts";
import type { Failure } from "../../shared/domain/outcomes.ts";
import type { Clock } from "../../shared/process/clock.ts";
import type { EventResult } from "../../shared/wire/rpc.ts";
import { etagOf } from "../cache/cached-event.ts";
import { type CachedRead, type EventCache, type MissedRead } from "../cache/event-cache.ts";
import type { Page, PageCache } from "../cache/page-cache.ts";
import type { Cluster } from "../shards/cluster.ts";
import { keyOf, REPLAYED_HEADER, unknownUnder } from "./idempotency.ts";
import { isKnown, versionsIn } from "./preconditions.ts";
import { Problem, problemOf } from "./problems.ts";
import { JSON_TYPE, jsonResponse, jsonTextResponse, type ResponseHeaders } from "./responses.ts";
import type { RouteRequest, Routes } from "./routes.ts";
import {
  eventBody,
  eventChanges,
  eventId,
  eventListSchema,
  eventSchema,
  ifMatchHeaders,
  ifNoneMatchHeaders,
  keyHeaders,
  listQuery,
} from "./schemas.ts";

export interface EventParts {
  readonly cluster: Cluster;
  readonly cache: EventCache;
  readonly pages: PageCache;
  readonly clock: Clock;
  /** Whether a change without `If-Match` is refused. */
  readonly ifMatchRequired: boolean;
}

const NO_PRECONDITION = new Problem(
  "precondition_required",
  "Send If-Match with the ETag of the version that you have read.",
);

const CACHE_CONTROL = "public, max-age=1, stale-while-revalidate=5";

export function addEventRoutes(
  routes: Routes,
  { cluster, cache, pages, clock, ifMatchRequired }: EventParts,
): void {
  const texts = new WeakMap<Page, { readonly items: readonly Event[]; readonly text: string }>();
  /** A page as JSON. It is made again only when memory knows a newer version of an event in it. */
  const textOf = (page: Page, limit: number): string => {
    const items = page.events.slice(0, limit).map((event) => cache.newest(event));
    const known = texts.get(page);
    if (known?.items.every((item, index) => item === items[index]) === true) return known.text;
    const last = items.at(-1);
    const nextCursor = page.events.length > limit && last !== undefined ? last.id : null;
    const text = JSON.stringify({ items, nextCursor });
    texts.set(page, { items, text });
    return text;
  };
  const theEvent = { description: "The event.", schema: eventSchema };

  routes.secured(
    {
      method: "post",
      path: "/v1/events",
      summary: "Create an event",
      tag: "events",
      headers: keyHeaders,
      body: eventBody,
      responses: { 201: { ...theEvent, headers: ["location", "etag"] } },
      refusals: ["idempotency_key_reused", "outcome_unknown"],
    },
    ["organizer"],
    async ({ incoming, caller: { userId }, body, requestId, span }) => {
      const key = keyOf(incoming);
      const now = clock.now();
      const id = key === undefined ? newEventId(now) : newEventIdFor(userId, key, now);
      const claim = key && { key, content: hash("sha256", JSON.stringify(body)) };
      const result = await cluster.createEvent({ id, ownerId: userId, ...body, claim }, span);
      if (key !== undefined && result.outcome === "outcome_unknown") throw unknownUnder(key);
      const event = savedEvent(id, result);
      pages.created();
      const headers: ResponseHeaders = { location: `/v1/events/${event.id}`, etag: etagOf(event) };
      if (event.id !== id) headers[REPLAYED_HEADER] = "true";
      return jsonResponse(201, event, requestId, headers);
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
      refusals: ["shard_unavailable"],
    },
    ({ query: { limit, cursor }, requestId, span }) => {
      const respond = (page: Page | Failure): Response => {
        if (!("events" in page)) throw problemOf(page);
        return jsonTextResponse(200, textOf(page, limit), requestId);
      };
      // One event more than the page holds shows whether there is a next page.
      const page = pages.read(cursor ?? null, limit + 1, span);
      return page instanceof Promise ? page.then(respond) : respond(page);
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
      headers: ifNoneMatchHeaders,
      responses: {
        200: { ...theEvent, headers: ["etag", "cache-control", "cache-status"] },
        304: { description: "The event is as you have it.", schema: null, headers: ["etag"] },
      },
      refusals: ["event_not_found", "shard_unavailable"],
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
      headers: ifMatchHeaders,
      body: eventChanges,
      responses: { 200: { ...theEvent, headers: ["etag"] } },
      refusals: [
        "event_not_found",
        "below_sold",
        "version_mismatch",
        "precondition_required",
        "outcome_unknown",
      ],
    },
    ["organizer"],
    async ({ incoming, caller, id, body, requestId, span }) => {
      const ifMatch = incoming.headers["if-match"];
      const versions = versionsIn(ifMatch);
      if (ifMatch === undefined && ifMatchRequired) throw NO_PRECONDITION;
      const change = { id, organizer: caller.userId, changes: body, versions };
      const event = savedEvent(id, await cluster.changeEvent(change, span));
      return jsonResponse(200, event, requestId, { etag: etagOf(event) });
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
  if (isKnown(incoming.headers["if-none-match"], event.etag))
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

function savedEvent(id: EventId, result: EventResult): Event {
  if (result.outcome === "saved") return result.snapshot.event;
  if (result.outcome !== "outcome_unknown") throw problemOf(result);
  throw new Problem(
    "outcome_unknown",
    `The shard's answer was lost. GET /v1/events/${id} shows whether the event was saved.`,
  );
}
