/** Events: create, change, read and list them. */
import type { FastifyReply } from "fastify";
import type { FastifyPluginCallbackZod } from "fastify-type-provider-zod";
import { z } from "zod";
import { Problem } from "../../shared/errors.ts";
import { type EventId, newEventId } from "../../shared/ids.ts";
import type { Event, EventResult } from "../../shared/wire.ts";
import type { RouterParts } from "../parts.ts";
import { requireRole } from "../auth.ts";
import { type CachedRead, PRIMARY_ONLY } from "../event-cache.ts";
import { eventHeaders, matches } from "../memory-reads.ts";
import { problemOf } from "../outcomes.ts";
import { spanOf } from "../request-trace.ts";
import {
  cursorOf,
  eventBody,
  eventChanges,
  eventListSchema,
  eventParams,
  eventSchema,
  listQuery,
  problemSchema,
} from "../schemas.ts";

export function eventRoutes({
  cluster,
  cache,
  verifier,
  clock,
  writeLimit,
}: RouterParts): FastifyPluginCallbackZod {
  return (app, _options, done) => {
    const organizer = { onRequest: requireRole(verifier, "organizer"), config: { rateLimit: writeLimit } };

    app.post(
      "/v1/events",
      {
        ...organizer,
        schema: {
          summary: "Create an event",
          tags: ["events"],
          security: [{ bearer: [] }],
          body: eventBody,
          response: { 201: eventSchema, default: problemSchema },
        },
      },
      async (request, reply) => {
        const id = newEventId(clock.now());
        const event = saved(id, await cluster.createEvent({ id, ...request.body }, spanOf(request.raw)));
        return reply.code(201).header("location", `/v1/events/${event.id}`).send(event);
      },
    );

    app.get(
      "/v1/events",
      {
        schema: {
          summary: "List events, newest first",
          tags: ["events"],
          querystring: listQuery,
          response: { 200: eventListSchema, default: problemSchema },
        },
      },
      async (request) => {
        const { limit, cursor } = request.query;
        // One more than asked for tells whether there is a next page.
        const listNotBefore = async (moment: number) =>
          cluster.listEvents(cursor ?? null, limit + 1, moment, spanOf(request.raw));
        let list = await listNotBefore(cache.forgottenUntil);
        // Meanwhile something newer may have been learned, and let go again.
        if ("events" in list && list.asOf < cache.forgottenUntil) list = await listNotBefore(PRIMARY_ONLY);
        if (!("events" in list)) throw problemOf(list);
        // A replica's list may be behind what is known here.
        const items = list.events.slice(0, limit).map((event) => cache.newest(event));
        const last = items.at(-1);
        return {
          items,
          nextCursor: list.events.length > limit && last !== undefined ? cursorOf(last.id) : null,
        };
      },
    );

    app.get(
      "/v1/events/:id",
      {
        schema: {
          summary: "Read an event",
          description: "Availability is advisory; a booking alone decides.",
          tags: ["events"],
          params: eventParams,
          headers: z.object({ "if-none-match": z.string().optional() }),
          response: { 200: eventSchema, 304: z.null(), default: problemSchema },
        },
      },
      async (request, reply) => {
        const read = await cache.read(request.params.id, spanOf(request.raw));
        if (read.outcome === "absent")
          throw new Problem("event_not_found", `There is no event ${request.params.id}.`);
        if (read.outcome !== "found") throw problemOf(read);
        return sendEvent(reply, read, request.headers["if-none-match"]);
      },
    );

    app.patch(
      "/v1/events/:id",
      {
        ...organizer,
        schema: {
          summary: "Change an event",
          tags: ["events"],
          security: [{ bearer: [] }],
          params: eventParams,
          body: eventChanges,
          response: { 200: eventSchema, default: problemSchema },
        },
      },
      async (request) =>
        saved(
          request.params.id,
          await cluster.changeEvent(
            { id: request.params.id, changes: defined(request.body) },
            spanOf(request.raw),
          ),
        ),
    );
    done();
  };
}

function sendEvent(
  reply: FastifyReply,
  { event, tier }: CachedRead,
  ifNoneMatch: string | undefined,
): FastifyReply {
  reply.headers(eventHeaders(event, tier === "shard" ? "fwd=miss" : `hit; detail=${tier}`));
  if (matches(ifNoneMatch, event.etag)) return reply.code(304).send();
  return reply.type("application/json; charset=utf-8").send(event.body.text);
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
