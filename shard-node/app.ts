/** The RPC of a shard node (shared/wire.ts). It refuses everybody who does not hold the internal token. */
import { timingSafeEqual } from "node:crypto";
import Fastify, { type FastifyInstance, type FastifyReply } from "fastify";
import type { z } from "zod";
import type { EventId } from "../shared/ids.ts";
import type { Log } from "../shared/log.ts";
import type { HttpMetrics } from "../shared/metrics.ts";
import { DatabaseError } from "../shared/postgres.ts";
import {
  changeEventRequestSchema,
  commandsRequestSchema,
  type CommandsResponse,
  createEventRequestSchema,
  type EventResult,
  type Failure,
  listRequestSchema,
  type ListResponse,
  readRequestSchema,
  RPC,
  type Snapshot,
} from "../shared/wire.ts";
import type { BookingStore } from "./booking-store.ts";
import type { Catalog } from "./catalog.ts";
import { type Decided, failureOf } from "./decider.ts";
import type { Lanes } from "./lanes.ts";

/** A full batch of the largest commands fits many times over. */
const BODY_MAX_BYTES = 8 * 1024 * 1024;

/** How long an answer may wait for the newest map; a catalog that is away must not hold it up. */
const MAP_REFRESH_MAX_MS = 200;

export interface NodeParts {
  /** Any of them opens the RPC. */
  readonly internalTokens: readonly string[];
  readonly store: BookingStore;
  readonly lanes: Lanes;
  readonly catalog: Catalog;
  readonly changed: (snapshots: readonly Snapshot[]) => void;
  /** Whether the database answered when it was last sampled. */
  readonly databaseUp: () => boolean;
  readonly metrics: HttpMetrics;
  /** Told when a statement was refused because too many wait for a connection already. */
  readonly shed: () => void;
  readonly log: Log;
}

export function createNodeApp(parts: NodeParts): FastifyInstance {
  const { store, lanes, catalog, metrics, log } = parts;
  const app = Fastify({ bodyLimit: BODY_MAX_BYTES, return503OnClosing: false });
  const expected = parts.internalTokens.map((token) => Buffer.from(`Bearer ${token}`));

  app.addHook("onRequest", async (request, reply) => {
    const given = Buffer.from(request.headers.authorization ?? "");
    if (!expected.some((token) => token.length === given.length && timingSafeEqual(token, given))) {
      return reply.code(401).send({ error: "this port answers only to routers" });
    }
    return undefined;
  });
  app.addHook("onResponse", (request, reply, done) => {
    metrics.answered(
      request.routeOptions.url ?? "unmatched",
      request.method,
      reply.statusCode,
      reply.elapsedTime / 1000,
    );
    done();
  });
  app.setErrorHandler(async (error: Error & { statusCode?: number }, _request, reply) => {
    if (error instanceof DatabaseError) {
      if (error.kind === "busy") parts.shed();
      return reply.code(503).send(failureOf(error));
    }
    if (error.statusCode === undefined) log.error({ err: error }, "an RPC failed");
    return reply.code(error.statusCode ?? 500).send({ outcome: "internal" });
  });

  const mapVersion = (): number => catalog.map?.version ?? 0;
  /**
   * RFC 9110 §15.5.20: what was asked for belongs elsewhere; the body says so for each item. The node reads the map
   * before it says so, because the router will ask for it next.
   */
  const judge = async (reply: FastifyReply, outcomes: readonly { outcome: string }[]): Promise<void> => {
    if (!outcomes.some(({ outcome }) => outcome === "wrong_shard")) return;
    await catalog.refreshWithin(MAP_REFRESH_MAX_MS);
    if (outcomes.every(({ outcome }) => outcome === "wrong_shard")) reply.code(421);
  };

  app.post(RPC.commands, async (request, reply): Promise<CommandsResponse | undefined> => {
    const { commands } = valid(commandsRequestSchema, request.body);
    const decided = await Promise.all(commands.map(async (command) => lanes.run(command)));
    // What waited in vain for a database that is away was not too much work: the router shall stop sending more.
    const late: Failure = { outcome: parts.databaseUp() ? "overloaded" : "shard_unavailable" };
    const results = decided.map(({ result }) => (result.outcome === "overloaded" ? late : result));
    await judge(reply, results);
    return { results, snapshots: newestOf(decided), mapVersion: mapVersion() };
  });
  app.post(RPC.read, async (request, reply) => {
    const { kind, ids } = valid(readRequestSchema, request.body);
    const results = kind === "event" ? await store.readEvents(ids) : await store.readBookings(ids);
    await judge(reply, results);
    return { results, mapVersion: mapVersion() };
  });
  app.post(RPC.list, async (request): Promise<ListResponse> => {
    const { before, limit } = valid(listRequestSchema, request.body);
    return { events: await store.listEvents(before, limit) };
  });

  const saved = async (reply: FastifyReply, result: EventResult): Promise<EventResult> => {
    if ("snapshot" in result) parts.changed([result.snapshot]);
    await judge(reply, [result]);
    return result;
  };
  app.post(RPC.createEvent, async (request, reply) =>
    saved(reply, await store.createEvent(valid(createEventRequestSchema, request.body))),
  );
  app.post(RPC.changeEvent, async (request, reply) =>
    saved(reply, await store.changeEvent(valid(changeEventRequestSchema, request.body))),
  );
  app.get(
    RPC.map,
    async (_request, reply) => catalog.map ?? reply.code(503).send({ error: "no map was read yet" }),
  );
  return app;
}

/** Each event once, at its newest version: the commands of one call may have been decided in several batches. */
function newestOf(decided: readonly Decided[]): Snapshot[] {
  const newest = new Map<EventId, Snapshot>();
  for (const { snapshot } of decided) {
    if (snapshot === undefined) continue;
    const known = newest.get(snapshot.event.id);
    if (known === undefined || known.event.version < snapshot.event.version)
      newest.set(snapshot.event.id, snapshot);
  }
  return [...newest.values()];
}

function valid<Schema extends z.ZodType>(schema: Schema, body: unknown): z.infer<Schema> {
  const parsed = schema.safeParse(body);
  if (parsed.success) return parsed.data;
  throw Object.assign(new Error("an RPC body is not valid", { cause: parsed.error }), { statusCode: 400 });
}
