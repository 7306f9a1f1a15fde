/** The RPC of a shard node (shared/wire.ts). It refuses everybody who does not hold the internal token. */
import { timingSafeEqual } from "node:crypto";
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from "fastify";
import type { z } from "zod";
import type { EventId } from "../shared/ids.ts";
import type { Log } from "../shared/log.ts";
import type { HttpMetrics } from "../shared/metrics.ts";
import { DatabaseError } from "../shared/postgres.ts";
import type { Span, Tracing } from "../shared/tracing.ts";
import {
  changeEventRequestSchema,
  type CommandsRequest,
  commandsRequestSchema,
  type CommandsResponse,
  createEventRequestSchema,
  type EventResult,
  type Failure,
  listRequestSchema,
  type ListResponse,
  readRequestSchema,
  RPC,
  RPC_VERSION,
  RPC_VERSION_HEADER,
  rpcVersionProblem,
  type Snapshot,
} from "../shared/wire.ts";
import type { BookingStore } from "./booking-store.ts";
import type { Catalog } from "./catalog.ts";
import { type Decided, failureOf } from "./decider.ts";
import type { Lanes } from "./lanes.ts";
import type { Reader } from "./reader.ts";

/** A full batch of the largest commands fits many times over. */
const BODY_MAX_BYTES = 8 * 1024 * 1024;

/** How long an answer may wait for the newest map; a catalog that is away must not hold it up. */
const MAP_REFRESH_MAX_MS = 200;

export interface NodeParts {
  /** Any of them opens the RPC. */
  readonly internalTokens: readonly string[];
  readonly store: BookingStore;
  readonly reader: Reader;
  readonly lanes: Lanes;
  readonly catalog: Catalog;
  readonly changed: (snapshots: readonly Snapshot[]) => void;
  /** Whether the database answered when it was last sampled. */
  readonly databaseUp: () => boolean;
  readonly metrics: HttpMetrics;
  /** Told when a statement was refused because too many wait for a connection already. */
  readonly shed: () => void;
  readonly log: Log;
  /** undefined when it is off. */
  readonly tracing: Tracing | undefined;
}

declare module "fastify" {
  interface FastifyRequest {
    /** Of a call to a node, when it is sampled. */
    callSpan: Span | undefined;
  }
}

export function createNodeApp(parts: NodeParts): FastifyInstance {
  const { store, reader, lanes, catalog, metrics, log, tracing } = parts;
  const app = Fastify({ bodyLimit: BODY_MAX_BYTES, return503OnClosing: false });
  const expected = parts.internalTokens.map((token) => Buffer.from(`Bearer ${token}`));

  app.addHook("onRequest", async (request, reply) => {
    reply.header(RPC_VERSION_HEADER, RPC_VERSION);
    const given = Buffer.from(request.headers.authorization ?? "");
    if (!expected.some((token) => token.length === given.length && timingSafeEqual(token, given))) {
      return reply.code(401).send({ error: "this port answers only to routers" });
    }
    const error = rpcVersionProblem(request.headers[RPC_VERSION_HEADER]?.toString());
    return error === undefined ? undefined : reply.code(400).send({ error });
  });
  app.decorateRequest("callSpan", undefined);
  app.addHook("preParsing", (request, _reply, payload, done) => {
    request.callSpan = tracing && startCallSpan(tracing, request);
    done(null, payload);
  });
  app.addHook("onResponse", (request, reply, done) => {
    const { statusCode, elapsedTime } = reply;
    metrics.answered(request.routeOptions.url ?? "unmatched", request.method, statusCode, elapsedTime / 1000);
    request.callSpan?.set({ "http.response.status_code": statusCode });
    if (statusCode >= 500) request.callSpan?.failed(String(statusCode));
    request.callSpan?.end();
    done();
  });
  app.setErrorHandler(async (error: Error & { statusCode?: number }, request, reply) => {
    if (error instanceof DatabaseError) {
      if (error.kind === "busy") parts.shed();
      return reply.code(503).send(failureOf(error));
    }
    if (error.statusCode === undefined)
      log.error({ err: error, traceId: request.callSpan?.traceId }, "an RPC failed");
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
    const { commands, traces } = valid(commandsRequestSchema, request.body);
    const spans = tracing && traces && parentsOf(tracing, traces, request.callSpan);
    const decided = await Promise.all(
      commands.map(async (command, index) => lanes.run(command, spans?.get(index))),
    );
    // What waited in vain for a database that is away was not too much work: the router shall stop sending more.
    const late: Failure = { outcome: parts.databaseUp() ? "overloaded" : "shard_unavailable" };
    const results = decided.map(({ result }) => (result.outcome === "overloaded" ? late : result));
    await judge(reply, results);
    return { results, snapshots: newestOf(decided), mapVersion: mapVersion() };
  });
  app.post(RPC.read, async (request, reply) => {
    const asked = valid(readRequestSchema, request.body);
    const { callSpan } = request;
    const results =
      asked.kind === "event"
        ? await reader.readEvents(asked.ids, asked.maxAgesMs, callSpan)
        : await store.readBookings(asked.ids, callSpan);
    await judge(reply, results);
    return { results, mapVersion: mapVersion() };
  });
  app.post(RPC.list, async (request): Promise<ListResponse> => {
    const { before, limit, maxAgeMs } = valid(listRequestSchema, request.body);
    return reader.listEvents(before, limit, maxAgeMs, request.callSpan);
  });

  const saved = async (reply: FastifyReply, result: EventResult): Promise<EventResult> => {
    if ("snapshot" in result) parts.changed([result.snapshot]);
    await judge(reply, [result]);
    return result;
  };
  app.post(RPC.createEvent, async (request, reply) =>
    saved(reply, await store.createEvent(valid(createEventRequestSchema, request.body), request.callSpan)),
  );
  app.post(RPC.changeEvent, async (request, reply) =>
    saved(
      reply,
      await store.changeEvent(valid(changeEventRequestSchema, request.body), undefined, request.callSpan),
    ),
  );
  app.get(
    RPC.map,
    async (_request, reply) => catalog.map ?? reply.code(503).send({ error: "no map was read yet" }),
  );
  return app;
}

/** The call's own span, when its caller's is sampled (OpenTelemetry semantic conventions, HTTP server spans). */
function startCallSpan(
  tracing: Tracing,
  { headers, method, routeOptions }: FastifyRequest,
): Span | undefined {
  const route = routeOptions.url ?? "unmatched";
  return tracing.remote(headers)?.child(`${method} ${route}`, "server", {
    "http.request.method": method,
    "http.route": route,
    "url.path": route,
    "url.scheme": "http",
  });
}

/** What the commands of a call hang under: the call itself where it is of their trace, else the request that made them. */
function parentsOf(
  tracing: Tracing,
  traces: Exclude<CommandsRequest["traces"], undefined>,
  call: Span | undefined,
): ReadonlyMap<number, Span> {
  const parents = new Map<number, Span>();
  for (const { command, ...headers } of traces) {
    const request = tracing.remote(headers);
    const parent = call !== undefined && request?.traceId === call.traceId ? call : request;
    if (parent !== undefined) parents.set(command, parent);
  }
  return parents;
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
