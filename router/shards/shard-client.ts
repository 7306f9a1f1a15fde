/**
 * Everything a router says to one shard: commands and reads travel in coalesced calls to the shard's preferred node, and
 * to the next one when that fails. A call that was lost is repeated once: every command carries its idempotency key, so
 * repeating is safe, and an answer that is still missing then is `outcome_unknown`, never a guess.
 */
import type { Clock } from "../../shared/process/clock.ts";
import type { BookingId, EventId, ShardId } from "../../shared/domain/ids.ts";
import { type Span, spanForMany } from "../../shared/watch/tracing.ts";
import { afterLostTry, type CommandResult, type Failure } from "../../shared/domain/outcomes.ts";
import type { Booking } from "../../shared/domain/bookings.ts";
import {
  bookingsAnswerSchema,
  type ChangeEventRequest,
  commandsAnswerSchema,
  type CommandsRequest,
  type CreateEventRequest,
  eventAnswerSchema,
  type EventResult,
  eventsAnswerSchema,
  listAnswerSchema,
  type ListResponse,
  type ReadResponse,
  type ReadResult,
  RPC,
} from "../../shared/wire/rpc.ts";
import type { Command } from "../../shared/domain/commands.ts";
import type { Snapshot } from "../../shared/domain/events.ts";
import { Coalescer, type CoalescerLimits, type Outgoing } from "./coalescer.ts";
import { type Call, CallError, type NodeClient } from "./node-client.ts";

export interface ShardClientOptions {
  readonly limits: CoalescerLimits;
  readonly readDeadlineMs: number;
  readonly commandDeadlineMs: number;
  readonly clock: Clock;
  readonly observer: ShardObserver;
  /** Snapshots that came with an answer, and when (by `elapsed()`) it was asked for. */
  readonly learned: (snapshots: readonly Snapshot[], askedAt: number) => void;
  /** The version of the map that the node uses. */
  readonly mapSeen: (version: number) => void;
}

export interface ShardObserver {
  called(shard: ShardId, batchSize: number, seconds: number): void;
  shed(reason: "shard_queue_full" | "deadline" | "node_busy"): void;
}

/** A call's slack over its items' deadline, so that a node's own answer at the deadline still arrives. */
const CALL_SLACK_MS = 200;
const ATTEMPTS = 2;
/** JSON knows no infinity; a node allows far less. */
const AGE_MAX_MS = 60_000;

interface EventRead {
  readonly id: EventId;
  readonly notBefore: number;
}

export class ShardClient {
  readonly id: ShardId;
  readonly #options: ShardClientOptions;
  readonly #commands: Coalescer<Command, CommandResult>;
  readonly #events: Coalescer<EventRead, ReadResult<Snapshot> | Failure>;
  readonly #bookings: Coalescer<BookingId, ReadResult<Booking> | Failure>;
  #nodes: readonly NodeClient[] = [];
  /** When an event was last created or changed here, by `elapsed()`. */
  #savedAt = Number.NEGATIVE_INFINITY;

  constructor(id: ShardId, options: ShardClientOptions) {
    const { limits, clock } = options;
    this.id = id;
    this.#options = options;
    const shed = (reason: "queue_full" | "deadline"): Failure => {
      options.observer.shed(reason === "queue_full" ? "shard_queue_full" : reason);
      return { outcome: "overloaded" };
    };
    this.#commands = new Coalescer(limits, { send: async (batch) => this.#sendCommands(batch), shed }, clock);
    const readEvents = async (batch: readonly Outgoing<EventRead>[]) =>
      this.#sendReads(batch, eventsAnswerSchema, (reads) => ({
        kind: "event",
        ids: reads.map(({ id }) => id),
        maxAgesMs: reads.map(({ notBefore }) => this.#maxAgeMs(notBefore)),
      }));
    this.#events = new Coalescer(limits, { send: readEvents, shed }, clock);
    const readBookings = async (batch: readonly Outgoing<BookingId>[]) =>
      this.#sendReads(batch, bookingsAnswerSchema, (ids) => ({ kind: "booking", ids }));
    this.#bookings = new Coalescer(limits, { send: readBookings, shed }, clock);
  }

  /** The nodes of this shard, the preferred one first. */
  useNodes(nodes: readonly NodeClient[]): void {
    this.#nodes = nodes;
  }

  get nodeUrls(): readonly string[] {
    return this.#nodes.map((node) => node.url);
  }

  /** True while no node of the shard may be called. */
  get open(): boolean {
    return this.#nodes.every((node) => node.open);
  }

  command(command: Command, span?: Span): Promise<CommandResult> {
    return this.#commands.run(command, command.deadline, span);
  }

  readEvent(id: EventId, notBefore: number, span?: Span): Promise<ReadResult<Snapshot> | Failure> {
    return this.#events.run({ id, notBefore }, this.#readDeadline(), span);
  }

  readBooking(id: BookingId, span?: Span): Promise<ReadResult<Booking> | Failure> {
    return this.#bookings.run(id, this.#readDeadline(), span);
  }

  async list(
    before: EventId | null,
    limit: number,
    notBefore: number,
    span?: Span,
  ): Promise<ListResponse | Failure> {
    // What was created or changed here must be in it (C1).
    const maxAgeMs = this.#maxAgeMs(Math.max(notBefore, this.#savedAt));
    const list = { path: RPC.list, body: { before, limit, maxAgeMs }, answer: listAnswerSchema };
    return this.#direct(list, this.#options.readDeadlineMs, span);
  }

  async createEvent(request: CreateEventRequest, span?: Span): Promise<EventResult> {
    return this.#saveEvent(RPC.createEvent, request, span);
  }

  async changeEvent(request: ChangeEventRequest, span?: Span): Promise<EventResult> {
    return this.#saveEvent(RPC.changeEvent, request, span);
  }

  async #saveEvent(path: string, request: unknown, span: Span | undefined): Promise<EventResult> {
    const askedAt = this.#options.clock.elapsed();
    const save = { path, body: request, answer: eventAnswerSchema };
    const result = await this.#direct(save, this.#options.commandDeadlineMs, span);
    if ("snapshot" in result) {
      this.#options.learned([result.snapshot], askedAt);
      this.#savedAt = this.#options.clock.elapsed();
    }
    return result;
  }

  async #sendCommands(batch: readonly Outgoing<Command>[]): Promise<readonly CommandResult[]> {
    let lost = false;
    const deadline = Math.max(...batch.map((outgoing) => outgoing.deadline)) + CALL_SLACK_MS;
    const commands = batch.map(({ item }) => item);
    const traces = tracesOf(batch);
    for (const { node, timeoutMs } of this.#attempts(deadline)) {
      const askedAt = this.#options.clock.elapsed();
      try {
        const body: CommandsRequest = { sentAt: Math.round(askedAt), commands, traces };
        const answer = await this.#call(
          node,
          { path: RPC.commands, body, answer: commandsAnswerSchema, timeoutMs },
          batch,
        );
        if (!("results" in answer)) continue;
        this.#options.learned(answer.snapshots, askedAt);
        this.#options.mapSeen(answer.mapVersion);
        return lost ? answer.results.map(afterLostTry) : answer.results;
      } catch (error) {
        if (!(error instanceof CallError)) throw error;
        lost ||= error.kind === "unanswered";
      }
    }
    const outcome = lost ? "outcome_unknown" : "shard_unavailable";
    return batch.map(() => ({ outcome }));
  }

  async #sendReads<Item, T>(
    batch: readonly Outgoing<Item>[],
    answer: Call<ReadResponse<T> | Failure>["answer"],
    requestFor: (items: readonly Item[]) => unknown,
  ): Promise<readonly (ReadResult<T> | Failure)[]> {
    let failure: Failure = { outcome: "shard_unavailable" };
    const items = batch.map(({ item }) => item);
    const deadline = Math.max(...batch.map((outgoing) => outgoing.deadline));
    for (const { node, timeoutMs } of this.#attempts(deadline)) {
      try {
        const read = { path: RPC.read, body: requestFor(items), answer, timeoutMs };
        const said = await this.#call(node, read, batch);
        if ("results" in said) {
          this.#options.mapSeen(said.mapVersion);
          return said.results;
        }
        failure = readFailure(said);
      } catch (error) {
        if (!(error instanceof CallError)) throw error;
      }
    }
    return batch.map(() => failure);
  }

  /** One call outside the coalesced ones; repeated once, because reads and saves of events may be. */
  async #direct<Answer>(
    call: Omit<Call<Answer>, "timeoutMs">,
    deadlineMs: number,
    span: Span | undefined,
  ): Promise<Answer | Failure> {
    let lost = false;
    for (const { node, timeoutMs } of this.#attempts(this.#options.clock.elapsed() + deadlineMs)) {
      const callSpan = span?.child(...this.#callSpan(node, call.path, 1));
      try {
        return await node.direct({ ...call, timeoutMs, span: callSpan });
      } catch (error) {
        if (!(error instanceof CallError)) throw error;
        callSpan?.failed(error.kind);
        if (error.kind === "busy") {
          this.#options.observer.shed("node_busy");
          return { outcome: "overloaded" };
        }
        lost ||= error.kind === "unanswered";
      } finally {
        callSpan?.end();
      }
    }
    return { outcome: lost && call.path !== RPC.list ? "outcome_unknown" : "shard_unavailable" };
  }

  /** One call for all of a batch, with a result for each. */
  async #call<Answer>(
    node: NodeClient,
    call: Call<Answer>,
    batch: readonly Outgoing<unknown>[],
  ): Promise<Answer> {
    const started = this.#options.clock.elapsed();
    const spans = spansOf(batch);
    const [first] = spans;
    const span = first && spanForMany(first, spans, this.#callSpan(node, call.path, batch.length));
    try {
      return await node.call({ ...call, results: batch.length, span });
    } catch (error) {
      span?.failed(error instanceof CallError ? error.kind : "internal");
      throw error;
    } finally {
      span?.end();
      this.#options.observer.called(this.id, batch.length, (this.#options.clock.elapsed() - started) / 1000);
    }
  }

  /** What the span of a call says (OpenTelemetry semantic conventions, HTTP client spans). */
  #callSpan(node: NodeClient, path: string, batchSize: number): Parameters<Span["child"]> {
    const { hostname, port, protocol } = new URL(node.url);
    return [
      `POST ${path}`,
      "client",
      {
        "http.request.method": "POST",
        "url.full": node.url + path,
        "server.address": hostname,
        "server.port": Number(port || (protocol === "https:" ? 443 : 80)),
        "onsale.shard.id": this.id,
        "onsale.batch.size": batchSize,
      },
    ];
  }

  /**
   * The nodes to try, with the time that is left for each: those that did not fail lately first, a lone one twice. None
   * after the deadline.
   */
  *#attempts(deadline: number): Generator<{ node: NodeClient; timeoutMs: number }> {
    const nodes = [...this.#nodes].sort((a, b) => Number(a.open) - Number(b.open));
    const [first] = nodes;
    const candidates = nodes.length === 1 && first !== undefined ? [first, first] : nodes.slice(0, ATTEMPTS);
    for (const node of candidates) {
      const timeoutMs = deadline - this.#options.clock.elapsed();
      if (timeoutMs <= 0) return;
      yield { node, timeoutMs };
    }
  }

  /** How old an answer may be that has everything committed before a moment. */
  #maxAgeMs(notBefore: number): number {
    return Math.min(Math.max(0, this.#options.clock.elapsed() - notBefore), AGE_MAX_MS);
  }

  #readDeadline(): number {
    return this.#options.clock.elapsed() + this.#options.readDeadlineMs;
  }
}

/** The spans of those that are sampled: nearly always none. */
function spansOf(batch: readonly Outgoing<unknown>[]): readonly Span[] {
  return batch.map(({ span }) => span).filter((span) => span !== undefined);
}

/** How a call says which of its commands are sampled. */
function tracesOf(batch: readonly Outgoing<Command>[]): CommandsRequest["traces"] {
  if (batch.every(({ span }) => span === undefined)) return undefined;
  return batch.flatMap(({ span }, command) => (span === undefined ? [] : { command, ...span.headers() }));
}

/** A read that was lost took no effect. */
function readFailure(failure: Failure): Failure {
  return failure.outcome === "outcome_unknown" ? { outcome: "shard_unavailable" } : failure;
}
