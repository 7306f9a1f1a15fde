/** What routers and followers may ask of a shard node (shared/wire/rpc.ts). Calls without the internal token are refused. */
import type { Server } from "node:http";
import type { Clock } from "../shared/process/clock.ts";
import { positionText } from "../shared/domain/changes.ts";
import type { BookingId, EventId, ShardId } from "../shared/domain/ids.ts";
import type { RequestState } from "../shared/domain/requests.ts";
import type { Log } from "../shared/process/log.ts";
import { DatabaseError } from "../shared/database/database.ts";
import type { Span, Tracing } from "../shared/watch/tracing.ts";
import {
  changeEventRequestSchema,
  changesRequestSchema,
  type CommandsRequest,
  commandsRequestSchema,
  type CommandsResponse,
  createEventRequestSchema,
  copyRequestSchema,
  type EventResult,
  listRequestSchema,
  readRequestSchema,
  type ReadResult,
  RPC,
  webhooksRequestSchema,
  type WebhooksResult,
} from "../shared/wire/rpc.ts";
import { ok, type Reply, RpcServer } from "../shared/wire/rpc-server.ts";
import type { Command } from "../shared/domain/commands.ts";
import type { CommandResult, Failure } from "../shared/domain/outcomes.ts";
import type { Snapshot } from "../shared/domain/events.ts";
import type { BookingStore } from "./store/booking-store.ts";
import type { Catalog } from "./catalog.ts";
import { type Decided, failureOf } from "./decide/decider.ts";
import { CHANGE_LOCK_WAIT_MS, EventChanges } from "./decide/event-changes.ts";
import type { Lanes } from "./decide/lanes.ts";
import type { NodeMetrics } from "./metrics.ts";
import type { Intake } from "./queue/intake.ts";
import type { Followers } from "./read/followers.ts";
import type { Reader } from "./read/reader.ts";
import type { Targets } from "./webhooks/targets.ts";

/** How long an answer may wait for the newest map; a catalog that is away must not hold it up. */
const MAP_REFRESH_MAX_MS = 200;

interface NodeParts {
  readonly shardId: ShardId;
  /** A call with any of them is admitted. */
  readonly internalTokens: readonly string[];
  readonly store: Pick<
    BookingStore,
    "readBookings" | "readRequests" | "createEvent" | "changeEvent" | "changeWebhooks"
  >;
  readonly reader: Reader;
  readonly followers: Pick<Followers, "follow" | "copy">;
  readonly lanes: Lanes;
  /** undefined without a broker. */
  readonly intake: Pick<Intake, "aheadOf"> | undefined;
  readonly targets: Pick<Targets, "objectionTo">;
  readonly catalog: Catalog;
  readonly changed: (snapshots: readonly Snapshot[]) => void;
  /** Whether the shard's database took a write at the last check. */
  readonly databaseUp: () => boolean;
  readonly metrics: NodeMetrics;
  readonly clock: Clock;
  readonly log: Log;
  /** undefined while tracing is off. */
  readonly tracing: Tracing | undefined;
}

/** A server that answers routers and followers; it does not listen yet. */
export function createNodeServer(parts: NodeParts): Server {
  const { metrics, internalTokens, log, tracing } = parts;
  const failed = (error: unknown): Reply | undefined => {
    if (!(error instanceof DatabaseError)) return undefined;
    if (error.kind === "busy") metrics.shed("pool_busy");
    return { status: 503, body: failureOf(error) };
  };
  const rpc = new RpcServer({ internalTokens, metrics, failed, log, tracing });
  addCalls(rpc, parts);
  return rpc.server();
}

function addCalls(rpc: RpcServer, parts: NodeParts): void {
  const { store, reader, lanes, catalog, tracing, clock } = parts;
  const mapVersion = (): number => catalog.map?.version ?? 0;
  /**
   * 421 when everything asked for belongs to another shard (RFC 9110 §15.5.20); the body says so for each item. The node
   * reads the map before it answers, because the router asks for the map next.
   */
  const judged = async (outcomes: readonly { outcome: string }[], body: object): Promise<Reply> => {
    if (outcomes.some(({ outcome }) => outcome === "wrong_shard")) {
      await catalog.refreshWithin(MAP_REFRESH_MAX_MS);
      if (outcomes.every(({ outcome }) => outcome === "wrong_shard")) return { status: 421, body };
    }
    return ok(body);
  };
  const saved = async (result: EventResult): Promise<Reply> => {
    if ("snapshot" in result) parts.changed([result.snapshot]);
    return judged([result], result);
  };

  rpc.call(RPC.commands, commandsRequestSchema, async ({ sentAt, commands, traces }, span) => {
    const spans = tracing && traces && parentsOf(tracing, traces, span);
    // From the router's clock to this node's. The way from router to node counts as no time.
    const ahead = clock.elapsed() - sentAt;
    const decided = decidedInParts(commands, async (command, index) =>
      lanes.run(command, { deadline: command.deadline + ahead, span: spans?.get(index) }),
    );
    const responseTo = (part: readonly DecidedAt[]): CommandsResponse => {
      // A command that waited in vain for a database that is away met no overload: the router must stop sending more.
      const late: Failure = { outcome: parts.databaseUp() ? "overloaded" : "shard_unavailable" };
      const results = part.map(({ result, position }): CommandResult => {
        if (result.outcome === "overloaded") return late;
        return "booking" in result && position !== undefined
          ? { ...result, position: positionText(parts.shardId, position) }
          : result;
      });
      const positions = part.map(({ index }) => index);
      return { results, positions, snapshots: newestOf(part), mapVersion: mapVersion() };
    };
    const { value: first = [] } = await decided.next();
    if (first.length < commands.length) {
      const more = async function* (): AsyncGenerator<CommandsResponse> {
        for await (const part of decided) yield responseTo(part);
      };
      return { status: 200, body: responseTo(first), more: more() };
    }
    const { positions: _, ...whole } = responseTo(first.toSorted((a, b) => a.index - b.index));
    return judged(whole.results, whole);
  });
  rpc.call(RPC.read, readRequestSchema, async (asked, span) => {
    const read = async (): Promise<readonly ReadResult<unknown>[]> => {
      switch (asked.kind) {
        case "event":
          return reader.readEvents(asked.ids, asked.maxAgesMs, span);
        case "booking":
          return store.readBookings(asked.ids, undefined, span);
        case "request":
          return withAhead(asked.ids, await store.readRequests(asked.ids, undefined, span), parts.intake);
      }
    };
    const results = await read();
    return judged(results, { results, mapVersion: mapVersion() });
  });
  rpc.call(RPC.list, listRequestSchema, async ({ before, limit, maxAgeMs }, span) =>
    ok(await reader.listEvents(before, limit, maxAgeMs, span)),
  );
  rpc.call(RPC.createEvent, createEventRequestSchema, async (request, span) =>
    saved(await store.createEvent(request, span)),
  );
  const changes = new EventChanges(clock, () => parts.metrics.shed("event_locked"));
  rpc.call(RPC.changeEvent, changeEventRequestSchema, async (request, span) =>
    saved(
      await changes.run(request.id, async () =>
        store.changeEvent(request, { span, lockWaitMs: CHANGE_LOCK_WAIT_MS }),
      ),
    ),
  );
  rpc.call(RPC.webhooks, webhooksRequestSchema, async (request, span) => {
    let host = "";
    if (request.action === "create") {
      // Whoever may not see the webhooks has no name looked up.
      const { eventId, caller } = request;
      const seen = await store.changeWebhooks({ action: "list", eventId, caller }, host, span);
      if (seen.outcome !== "listed") return judged([seen], seen);
      const reason = await parts.targets.objectionTo(request.url);
      if (reason !== undefined) return ok({ outcome: "forbidden_target", reason } satisfies WebhooksResult);
      ({ host } = new URL(request.url));
    }
    const result = await store.changeWebhooks(request, host, span);
    return judged([result], result);
  });
  rpc.call(RPC.changes, changesRequestSchema, async (request) => {
    const body = await parts.followers.follow(request);
    const status = body.outcome === "changes" ? 200 : body.outcome === "position_dropped" ? 410 : 503;
    return { status, body };
  });
  rpc.call(RPC.copy, copyRequestSchema, async (request) => ok(await parts.followers.copy(request)));
  rpc.question(RPC.map, async () =>
    catalog.map === undefined
      ? { status: 503, body: { error: "no map was read yet" } }
      : ok({ ...catalog.map, databaseUp: parts.databaseUp() }),
  );
}

/** Only the node that takes requests from the queue can estimate how many are before one. */
function withAhead(
  ids: readonly BookingId[],
  results: readonly ReadResult<RequestState>[],
  intake: Pick<Intake, "aheadOf"> | undefined,
): readonly ReadResult<RequestState>[] {
  return results.map((result, index) => {
    const id = ids[index];
    if (intake === undefined || id === undefined || result.outcome !== "found") return result;
    const { value } = result;
    return value.status === "queued" ? { ...result, value: { ...value, ahead: intake.aheadOf(id) } } : result;
  });
}

interface DecidedAt extends Decided {
  /** The command's place in the call. */
  readonly index: number;
}

/** Runs all commands. Gives in parts what was decided since the part before, and ends with the last command. */
async function* decidedInParts(
  commands: readonly Command[],
  run: (command: Command, index: number) => Promise<Decided>,
): AsyncGenerator<readonly DecidedAt[], undefined, undefined> {
  let open = commands.length;
  let part: DecidedAt[] = [];
  let ready = Promise.withResolvers<void>();
  for (const [index, command] of commands.entries()) {
    void run(command, index).then((decided) => {
      open -= 1;
      // A batch decides many commands in one turn of the event loop.
      if (part.push({ ...decided, index }) === 1 && open > 0) setImmediate(ready.resolve);
      if (open === 0) ready.resolve();
    });
  }
  while (open > 0 || part.length > 0) {
    await ready.promise;
    const given = part;
    part = [];
    ready = Promise.withResolvers();
    yield given;
  }
  return undefined;
}

/** The span above each sampled command: the call when both are of one trace, else the client's request. */
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

/** Each event once, at its newest version: several batches may have decided the commands of one call. */
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
