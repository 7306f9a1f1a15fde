/** Events: create, change, read and list them. */
import { z } from "@hono/zod-openapi";
import { Problem } from "./problems.ts";
import { type EventId, newEventId } from "../../shared/domain/ids.ts";
import type { Event } from "../../shared/domain/events.ts";
import type { EventResult } from "../../shared/wire/rpc.ts";
import { type CachedRead, PRIMARY_ONLY } from "../cache/event-cache.ts";
import { problemOf } from "./problems.ts";
import type { RouterParts } from "./parts.ts";
import { answerJson, type AnswerHeaders, JSON_TYPE } from "./answers.ts";
import type { Asked, Routes } from "./routes.ts";
import {
  cursorOf,
  eventBody,
  eventChanges,
  eventId,
  eventListSchema,
  eventSchema,
  listQuery,
} from "./schemas.ts";

export const EVENT_CACHE_CONTROL = "public, max-age=1, stale-while-revalidate=5";

export function addEventRoutes(routes: Routes, { cluster, cache, clock, metrics }: RouterParts): void {
  const theEvent = { description: "The event.", schema: eventSchema };

  routes.secured(
    {
      method: "post",
      path: "/v1/events",
      summary: "Create an event",
      tag: "events",
      body: eventBody,
      answers: { 201: theEvent },
    },
    ["organizer"],
    async ({ body, requestId, span }) => {
      const id = newEventId(clock.now());
      const event = saved(id, await cluster.createEvent({ id, ...body }, span));
      return answerJson(201, event, requestId, { location: `/v1/events/${event.id}` });
    },
  );

  routes.open(
    {
      method: "get",
      path: "/v1/events",
      summary: "List events, newest first",
      tag: "events",
      query: listQuery,
      answers: { 200: { description: "A page of events.", schema: eventListSchema } },
    },
    async ({ query: { limit, cursor }, requestId, span }) => {
      // One more than asked for tells whether there is a next page.
      const listNotBefore = async (moment: number) =>
        cluster.listEvents(cursor ?? null, limit + 1, moment, span);
      let list = await listNotBefore(cache.forgottenUntil);
      // Meanwhile something newer may have been learned, and let go again.
      if ("events" in list && list.asOf < cache.forgottenUntil) list = await listNotBefore(PRIMARY_ONLY);
      if (!("events" in list)) throw problemOf(list);
      // A replica's list may be behind what is known here.
      const items = list.events.slice(0, limit).map((event) => cache.newest(event));
      const last = items.at(-1);
      const nextCursor = list.events.length > limit && last !== undefined ? cursorOf(last.id) : null;
      return answerJson(200, { items, nextCursor }, requestId);
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
      answers: { 200: theEvent, 304: { description: "The event is as you have it.", schema: null } },
    },
    (asked) => {
      const event = cache.fresh(asked.id);
      if (event === undefined)
        return cache.read(asked.id, asked.span).then((read) => answerRead(read, asked));
      metrics.cacheRead("memory", "hit");
      return answerEvent({ outcome: "found", event, tier: "memory" }, asked);
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
      answers: { 200: theEvent },
    },
    ["organizer"],
    async ({ id, body, requestId, span }) =>
      answerJson(200, saved(id, await cluster.changeEvent({ id, changes: defined(body) }, span)), requestId),
  );
}

function answerRead(
  read: Awaited<ReturnType<RouterParts["cache"]["read"]>>,
  asked: Asked & { id: EventId },
): Response {
  if (read.outcome === "found") return answerEvent(read, asked);
  if (read.outcome === "absent") throw new Problem("event_not_found", `There is no event ${asked.id}.`);
  throw problemOf(read);
}

/** With the headers of caches (RFC 9110 §8.8.3, RFC 9111 §5.2, RFC 9211 §2). */
function answerEvent({ event, tier }: CachedRead, { incoming, requestId }: Asked): Response {
  const headers: AnswerHeaders = {
    etag: event.etag,
    "cache-control": EVENT_CACHE_CONTROL,
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

function saved(id: EventId, result: EventResult): Event {
  if (result.outcome === "saved") return result.snapshot.event;
  if (result.outcome !== "outcome_unknown") throw problemOf(result);
  throw new Problem("outcome_unknown", `The answer was lost. GET /v1/events/${id} tells what became of it.`);
}

/** Without the fields that are absent, which the type checker would otherwise take for fields set to undefined. */
function defined<T extends object>(fields: T): { [Key in keyof T]: Exclude<T[Key], undefined> } {
  const given = Object.entries(fields).filter(([, value]) => value !== undefined);
  return Object.fromEntries(given) as { [Key in keyof T]: Exclude<T[Key], undefined> };
}
