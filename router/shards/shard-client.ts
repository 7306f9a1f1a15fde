/**
 * Everything a router says to one shard. Commands and reads travel in coalesced calls to the shard's preferred node, and
 * to the next node when that one fails. A lost call is repeated once: every command carries its idempotency key, so a
 * repetition is safe. An answer that is still missing then is `outcome_unknown`, never a guess (F1).
 */
import type { Booking } from "../../shared/domain/bookings.ts";
import { type Command, isBookCommand, userKeyOf } from "../../shared/domain/commands.ts";
import type { Snapshot } from "../../shared/domain/events.ts";
import { type BookingId, type EventId, type ShardId, slotOfBooking } from "../../shared/domain/ids.ts";
import { afterLostTry, type CommandResult, type Failure } from "../../shared/domain/outcomes.ts";
import type { Clock } from "../../shared/process/clock.ts";
import { slotOf } from "../../shared/domain/slots.ts";
import { UnderWay } from "../../shared/process/under-way.ts";
import type { RequestState } from "../../shared/domain/requests.ts";
import type { Span } from "../../shared/watch/tracing.ts";
import {
  bookingsAnswerSchema,
  type ChangeEventRequest,
  commandsAnswerSchema,
  type CommandsRequest,
  type CommandsResponse,
  type CreateEventRequest,
  eventAnswerSchema,
  type EventResult,
  eventsAnswerSchema,
  listAnswerSchema,
  type ListResponse,
  type ReadResponse,
  type ReadResult,
  RPC,
  requestsAnswerSchema,
  webhooksAnswerSchema,
  type WebhooksRequest,
  type WebhooksResult,
} from "../../shared/wire/rpc.ts";
import { describeCall, inSpan, spanOfBatch, tracesOf } from "./call-spans.ts";
import {
  Coalescer,
  type CoalescerLimits,
  OPEN_CALLS_PER_PLACE,
  DEADLINE_SLACK_MS,
  type Outgoing,
  type Sender,
} from "./coalescer.ts";
import { type Call, CallError, type DirectKind, type NodeClient } from "../../shared/wire/node-client.ts";

export interface ShardLimits extends CoalescerLimits {
  /** Commands of a user for an event that may be under way. */
  readonly perUserMax: number;
}

export interface ShardClientOptions {
  readonly limits: ShardLimits;
  readonly readDeadlineMs: number;
  readonly commandDeadlineMs: number;
  readonly clock: Clock;
  readonly observer: ShardObserver;
  /** Told of snapshots that came with an answer, and when (by `elapsed()`) the router asked for it. */
  readonly learned: (snapshots: readonly Snapshot[], askedAt: number) => void;
  /** Told of the version of the map that a node uses. */
  readonly mapSeen: (version: number) => void;
}

export interface ShardObserver {
  called(shard: ShardId, batchSize: number, seconds: number): void;
  shed(
    reason:
      "shard_queue_full" | "shard_queue_slow" | "deadline" | "node_busy" | "user_busy" | "event_overloaded",
  ): void;
}

const ATTEMPTS = 2;
const UNAVAILABLE = { outcome: "shard_unavailable" } as const satisfies Failure;
/**
 * How long bookings of an event are refused here after its node had no room for one. By default the node has work for a second
 * then (LANE_WAIT_MAX_MS), or somebody else has locked the event. Who is refused here neither waits for a call nor makes one.
 */
export const OVERLOADED_MS = 50;
/** Events that are remembered as overloaded. */
const OVERLOADED_EVENTS_MAX = 1_000;
/** JSON has no infinity, and a node allows far less than this. */
const AGE_MAX_MS = 60_000;

interface EventRead {
  readonly id: EventId;
  readonly notBefore: number;
}

export class ShardClient {
  readonly id: ShardId;
  readonly #options: ShardClientOptions;
  /** Confirm and cancel do not wait behind bookings. */
  readonly #bookingCommands: Coalescer<Command, CommandResult>;
  readonly #settlingCommands: Coalescer<Command, CommandResult>;
  readonly #users: UnderWay;
  /** Until when, by `elapsed()`. The oldest is first. */
  readonly #overloaded = new Map<EventId, number>();
  readonly #events: Coalescer<EventRead, ReadResult<Snapshot> | Failure>;
  readonly #bookings: Coalescer<BookingId, ReadResult<Booking> | Failure>;
  readonly #requests: Coalescer<BookingId, ReadResult<RequestState> | Failure>;
  #nodes: readonly NodeClient[] = [];
  /** When an event was last created or changed here, by `elapsed()`. */
  #savedAt = Number.NEGATIVE_INFINITY;

  constructor(id: ShardId, options: ShardClientOptions) {
    this.id = id;
    this.#options = options;
    this.#users = new UnderWay(options.limits.perUserMax);
    const coalesced = <Item, Result>(
      unanswered: Failure["outcome"],
      send: Sender<Item, Result | Failure>["send"],
    ) => {
      const shed = (reason: "full" | "slow" | "deadline"): Failure => {
        options.observer.shed(reason === "deadline" ? reason : `shard_queue_${reason}`);
        return { outcome: "overloaded" };
      };
      const sender = { send, shed, unanswered: (): Failure => ({ outcome: unanswered }) };
      return new Coalescer<Item, Result | Failure>(options.limits, sender, options.clock);
    };
    const commands = (): Coalescer<Command, CommandResult> =>
      coalesced("outcome_unknown", async (batch, give) => this.#sendCommands(batch, give));
    this.#bookingCommands = commands();
    this.#settlingCommands = commands();
    this.#events = coalesced("shard_unavailable", async (batch: readonly Outgoing<EventRead>[], give) =>
      this.#sendReads(batch, give, eventsAnswerSchema, (reads) => ({
        kind: "event",
        ids: reads.map((read) => read.id),
        maxAgesMs: reads.map(({ notBefore }) => this.#maxAgeMs(notBefore)),
      })),
    );
    this.#bookings = coalesced("shard_unavailable", async (batch: readonly Outgoing<BookingId>[], give) =>
      this.#sendReads(batch, give, bookingsAnswerSchema, (ids) => ({ kind: "booking", ids })),
    );
    this.#requests = coalesced("shard_unavailable", async (batch: readonly Outgoing<BookingId>[], give) =>
      this.#sendReads(batch, give, requestsAnswerSchema, (ids) => ({ kind: "request", ids })),
    );
  }

  /** The nodes of this shard, the preferred one first. */
  useNodes(nodes: readonly NodeClient[]): void {
    this.#nodes = nodes;
  }

  /** True while the breakers of all nodes of the shard are open. */
  get open(): boolean {
    return this.#nodes.every((node) => node.open);
  }

  command(command: Command, span?: Span): Promise<CommandResult> {
    if (isBookCommand(command) && this.#isOverloaded(command.eventId)) {
      this.#options.observer.shed("event_overloaded");
      return Promise.resolve({ outcome: "overloaded" });
    }
    const user = userKeyOf(command);
    if (user !== undefined && !this.#users.enter(user)) {
      this.#options.observer.shed("user_busy");
      return Promise.resolve({ outcome: "rate_limited" });
    }
    const commands = isBookCommand(command) ? this.#bookingCommands : this.#settlingCommands;
    const decided = commands.run(command.slot, command, command.deadline, span);
    return user === undefined ? decided : decided.finally(() => this.#users.leave(user));
  }

  readEvent(id: EventId, notBefore: number, span?: Span): Promise<ReadResult<Snapshot> | Failure> {
    return this.#events.run(slotOf(id), { id, notBefore }, this.#in(this.#options.readDeadlineMs), span);
  }

  readBooking(id: BookingId, span?: Span): Promise<ReadResult<Booking> | Failure> {
    return this.#bookings.run(slotOfBooking(id), id, this.#in(this.#options.readDeadlineMs), span);
  }

  readRequest(id: BookingId, span?: Span): Promise<ReadResult<RequestState> | Failure> {
    return this.#requests.run(slotOfBooking(id), id, this.#in(this.#options.readDeadlineMs), span);
  }

  async list(
    before: EventId | null,
    limit: number,
    notBefore: number,
    span?: Span,
  ): Promise<ListResponse | Failure> {
    // The list must hold what was created or changed here (C1).
    const maxAgeMs = this.#maxAgeMs(Math.max(notBefore, this.#savedAt));
    const list = { path: RPC.list, body: { before, limit, maxAgeMs }, answer: listAnswerSchema };
    const { answer } = await this.#direct("list", list, this.#options.readDeadlineMs, span);
    return answer !== undefined && "events" in answer ? answer : failureOfRead(answer);
  }

  async createEvent(request: CreateEventRequest, span?: Span): Promise<EventResult> {
    return this.#saveEvent(RPC.createEvent, request, span);
  }

  async changeEvent(request: ChangeEventRequest, span?: Span): Promise<EventResult> {
    return this.#saveEvent(RPC.changeEvent, request, span);
  }

  async webhooks(request: WebhooksRequest, span?: Span): Promise<WebhooksResult> {
    const call = { path: RPC.webhooks, body: request, answer: webhooksAnswerSchema };
    const { answer, lost } = await this.#direct("webhooks", call, this.#options.commandDeadlineMs, span);
    const result = answer ?? UNAVAILABLE;
    return lost ? afterLostTry(result) : result;
  }

  async #saveEvent(path: string, request: unknown, span: Span | undefined): Promise<EventResult> {
    const askedAt = this.#options.clock.elapsed();
    const save = { path, body: request, answer: eventAnswerSchema };
    const { answer, lost } = await this.#direct("change", save, this.#options.commandDeadlineMs, span);
    const result = answer ?? UNAVAILABLE;
    if ("snapshot" in result) {
      this.#options.learned([result.snapshot], askedAt);
      this.#savedAt = this.#options.clock.elapsed();
    }
    return lost ? afterLostTry(result) : result;
  }

  async #sendCommands(
    batch: readonly Outgoing<Command>[],
    give: (position: number, result: CommandResult) => void,
  ): Promise<void> {
    /** Positions of the commands that have no result yet. */
    let open = [...batch.keys()];
    const { lost } = await this.#tried(
      lastDeadlineOf(batch) + DEADLINE_SLACK_MS,
      hasResults,
      async (node, timeoutMs, lostBefore) => {
        const asked = open;
        const left = new Set(asked);
        const answered = (index: number, result: CommandResult): void => {
          const position = asked[index];
          if (position === undefined || !left.delete(position)) return;
          if (result.outcome === "overloaded")
            this.#noteOverload((batch[position] as Outgoing<Command>).item);
          give(position, lostBefore ? afterLostTry(result) : result);
        };
        try {
          const commands = asked.map((position) => batch[position] as Outgoing<Command>);
          const answer = await this.#askForDecisions(node, timeoutMs, commands, answered);
          if (hasResults(answer) && left.size > 0)
            throw new CallError("unanswered", `${node.url}: the answer ended too early`);
          return answer;
        } finally {
          open = [...left];
        }
      },
    );
    for (const position of open) give(position, { outcome: lost ? "outcome_unknown" : "shard_unavailable" });
  }

  #isOverloaded(event: EventId): boolean {
    const until = this.#overloaded.get(event);
    if (until === undefined || this.#options.clock.elapsed() < until) return until !== undefined;
    this.#overloaded.delete(event);
    return false;
  }

  #noteOverload(command: Command): void {
    if (!isBookCommand(command)) return;
    this.#overloaded.delete(command.eventId);
    this.#overloaded.set(command.eventId, this.#in(OVERLOADED_MS));
    const [oldest] = this.#overloaded.keys();
    if (oldest !== undefined && this.#overloaded.size > OVERLOADED_EVENTS_MAX)
      this.#overloaded.delete(oldest);
  }

  /** One call. `answered` hears of each result when it comes. */
  async #askForDecisions(
    node: NodeClient,
    timeoutMs: number,
    batch: readonly Outgoing<Command>[],
    answered: (index: number, result: CommandResult) => void,
  ): Promise<CommandsResponse | Failure> {
    const { clock, learned, mapSeen } = this.#options;
    const askedAt = clock.elapsed();
    const heard = (answer: CommandsResponse | Failure): void => {
      if (!("results" in answer)) return;
      learned(answer.snapshots, askedAt);
      mapSeen(answer.mapVersion);
      for (const [index, result] of answer.results.entries())
        answered(answer.positions?.[index] ?? index, result);
    };
    const body: CommandsRequest = {
      sentAt: Math.round(askedAt),
      commands: batch.map(({ item }) => item),
      traces: tracesOf(batch),
    };
    const call = { path: RPC.commands, body, answer: commandsAnswerSchema, timeoutMs, heard };
    const answer = await this.#call(node, call, batch);
    // The last line of a stream was heard already.
    if (!("positions" in answer)) heard(answer);
    return answer;
  }

  async #sendReads<Item, T>(
    batch: readonly Outgoing<Item>[],
    give: (position: number, result: ReadResult<T> | Failure) => void,
    schema: Call<ReadResponse<T> | Failure>["answer"],
    requestFor: (items: readonly Item[]) => unknown,
  ): Promise<void> {
    const items = batch.map(({ item }) => item);
    const { answer } = await this.#tried(lastDeadlineOf(batch), hasResults, async (node, timeoutMs) =>
      this.#call(node, { path: RPC.read, body: requestFor(items), answer: schema, timeoutMs }, batch),
    );
    if (answer !== undefined && "results" in answer) {
      this.#options.mapSeen(answer.mapVersion);
      for (const [position, result] of answer.results.entries()) give(position, result);
      return;
    }
    for (const position of batch.keys()) give(position, failureOfRead(answer));
  }

  /** One call that is not coalesced. Lists and saves of events may be repeated, so it is. */
  async #direct<Answer extends object>(
    kind: DirectKind,
    call: Omit<Call<Answer>, "timeoutMs">,
    deadlineMs: number,
    span: Span | undefined,
  ): Promise<{ answer: Answer | Failure | undefined; lost: boolean }> {
    try {
      // A list that failed may work elsewhere. One that is too much for the shard is too much again.
      const isFinal = (answer: Answer): boolean =>
        kind !== "list" || !("outcome" in answer) || answer.outcome === "overloaded";
      return await this.#tried(this.#in(deadlineMs), isFinal, (node, timeoutMs) =>
        inSpan(span?.child(...describeCall(this.id, node.url, call.path, 1)), (callSpan) =>
          node.direct(kind, { ...call, timeoutMs, span: callSpan }),
        ),
      );
    } catch (error) {
      if (!(error instanceof CallError)) throw error;
      this.#options.observer.shed("node_busy");
      return { answer: { outcome: "overloaded" }, lost: false };
    }
  }

  /** One call for a whole batch, with a result for each item. */
  async #call<Answer>(
    node: NodeClient,
    call: Call<Answer>,
    batch: readonly Outgoing<unknown>[],
  ): Promise<Answer> {
    const { clock, observer } = this.#options;
    const started = clock.elapsed();
    const span = spanOfBatch(batch, () => describeCall(this.id, node.url, call.path, batch.length));
    try {
      return await inSpan(span, (callSpan) => node.call({ ...call, results: batch.length, span: callSpan }));
    } finally {
      observer.called(this.id, batch.length, (clock.elapsed() - started) / 1000);
    }
  }

  /**
   * Asks one node after the other until an answer is `final` or nothing is left to try; then the last answer counts.
   * `lost` is true when a call went without an answer and so may have taken effect; `ask` hears whether one before it did.
   * Throws CallError `busy` when none was sent.
   */
  async #tried<Answer>(
    deadline: number,
    final: (answer: Answer) => boolean,
    ask: (node: NodeClient, timeoutMs: number, lostBefore: boolean) => Promise<Answer>,
  ): Promise<{ answer: Answer | undefined; lost: boolean }> {
    let answer: Answer | undefined;
    let lost = false;
    for (const node of this.#candidates()) {
      const timeoutMs = deadline - this.#options.clock.elapsed();
      if (timeoutMs <= 0) break;
      try {
        answer = await ask(node, timeoutMs, lost);
        if (final(answer)) break;
      } catch (error) {
        if (!(error instanceof CallError) || (error.kind === "busy" && !lost)) throw error;
        lost ||= error.kind === "unanswered";
      }
    }
    return { answer, lost };
  }

  /** The nodes to try: first those that did not fail lately, and a lone node twice. */
  #candidates(): readonly NodeClient[] {
    const nodes = [...this.#nodes].sort((a, b) => Number(a.open) - Number(b.open));
    const [first] = nodes;
    return nodes.length === 1 && first !== undefined ? [first, first] : nodes.slice(0, ATTEMPTS);
  }

  /** The greatest age of an answer that holds everything committed before a moment. */
  #maxAgeMs(notBefore: number): number {
    return Math.min(Math.max(0, this.#options.clock.elapsed() - notBefore), AGE_MAX_MS);
  }

  #in(milliseconds: number): number {
    return this.#options.clock.elapsed() + milliseconds;
  }
}

/** A lost read took no effect, so nothing about it is unknown. */
function failureOfRead(answer: Failure | undefined): Failure {
  return answer === undefined || answer.outcome === "outcome_unknown" ? UNAVAILABLE : answer;
}

function lastDeadlineOf(batch: readonly Outgoing<unknown>[]): number {
  return Math.max(...batch.map(({ deadline }) => deadline));
}

/** False for a node that failed as a whole; another node may do better. */
function hasResults(answer: object): boolean {
  return "results" in answer;
}

/** The calls of all coalescers of a shard that may be open at once. */
export function connectionsFor({ inFlightMax }: ShardLimits): number {
  return 5 * inFlightMax * OPEN_CALLS_PER_PLACE;
}
