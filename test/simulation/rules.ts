/**
 * The rules of SPEC.md, checked while a run goes on: after each commit, at each call and each batch, and at each answer that a
 * client gets. It knows every state that the shards ever had, so every answer must be explained by one of them.
 */
import { type Command, isBookCommand, type RequestCommand, userKeyOf } from "../../shared/domain/commands.ts";
import { isDeepStrictEqual } from "node:util";
import type { Change } from "../../shared/domain/changes.ts";
import type { Event, Snapshot } from "../../shared/domain/events.ts";
import type { BookingId, EventId } from "../../shared/domain/ids.ts";
import { type Slot, slotOf } from "../../shared/domain/slots.ts";
import type { Decision } from "../../shared/domain/outcomes.ts";
import type { CommandsRequest } from "../../shared/wire/rpc.ts";
import { RPC } from "../../shared/wire/rpc.ts";
import * as model from "../components/model.ts";
import { COMMAND_DEADLINE_MS, READ_DEADLINE_MS, USER_COMMANDS_MAX } from "./cluster.ts";
import type { Commit, SimulatedShard } from "./store.ts";
import { type Process, world } from "./world.ts";

/** An answer at a node's deadline still arrives so much later (F2). */
const SLACK_MS = 200;
/** A reroute reads the map in between (R4). */
const REROUTE_MS = 1_000;
const BOOKS: ReadonlySet<Asked["kind"]> = new Set(["book", "hold", "request"]);
/** Ways, timers and turns of event loops. */
const MARGIN_MS = 30;
const SOLD_OUT_FRESH_MS = 250;
/** What nobody disturbs is answered within this time (F3, F4). */
const UNDISTURBED_MS = 600;
/** A command that nobody waits for any more may still be under way so long. */
const AFTERLIFE_MS = COMMAND_DEADLINE_MS + SLACK_MS + 1_000;

export interface Asked {
  readonly kind:
    | "book"
    | "hold"
    | "request"
    | "confirm"
    | "cancel"
    | "event"
    | "booking"
    | "receipt"
    | "change"
    | "create";
  readonly router: Process;
  readonly at: number;
  readonly event?: EventId | undefined;
  readonly booking?: string | undefined;
  readonly user?: string | undefined;
  readonly quantity?: number | undefined;
  readonly receipt?: string | undefined;
  readonly key?: string | undefined;
  /** The client began without a key, and wants one booking; its key is its router's. */
  readonly keyless?: boolean | undefined;
  /** One of hundreds at once: only the others must be served well. */
  readonly greedy?: boolean | undefined;
}

/** What the client heard; undefined when it heard nothing. */
export type Heard =
  | {
      readonly status: number;
      readonly headers: Readonly<Record<string, string>>;
      readonly body: unknown;
    }
  | undefined;

/** Something that was wrong, for whom, and when. Without a name, for all. */
export interface Disturbance {
  readonly what: string;
  readonly from: number;
  readonly until: number;
  readonly router?: string | undefined;
  readonly shard?: string | undefined;
  readonly event?: EventId | undefined;
  readonly kind?: Asked["kind"] | undefined;
  /** How long it is felt afterwards. */
  readonly echoMs?: number | undefined;
}

/** A booking request as its client sees it. */
interface Shown {
  readonly bookingId: BookingId;
  readonly status: "queued" | "decided" | "lapsed";
  readonly booking?: { readonly id: string };
  readonly problem?: { readonly code: string };
}

export class RuleBroken extends Error {
  readonly rule: string;

  constructor(rule: string, what: string) {
    super(`${rule}: ${what}`);
    this.rule = rule;
  }
}

interface Version {
  readonly at: number;
  readonly snapshot: Snapshot;
}

interface Made {
  readonly at: number;
  readonly decision: Decision;
  readonly version: number;
}

/** A booking request, from its acceptance by a queue. */
interface QueuedRequest {
  readonly event: EventId;
  readonly queue: string;
  /** Rises with each acceptance. */
  readonly place: number;
}

/** What a client wants, with all its tries. */
interface Purchase {
  readonly event: EventId;
  readonly user: string;
  readonly key: string | undefined;
  readonly tries: { readonly at: number; readonly until: number; readonly said: "yes" | "no" | "unknown" }[];
  readonly ids: Set<string>;
}

export class Rules {
  readonly disturbances: Disturbance[] = [];
  /** Whether routers may hear late of a commit: until its entry ends in Redis (C3, C4). */
  lateNews = false;
  /** Shards that gave a slot away. A router that does not know it yet still asks them, and they may be disturbed. */
  readonly formerOwners = new Map<Slot, string[]>();
  /** Whether calls come at once and once, so that a node's deadlines can be told from here (F2). */
  calmNetwork = true;
  broken: RuleBroken | undefined;
  readonly #shards: readonly SimulatedShard[];
  readonly #versions = new Map<EventId, Version[]>();
  readonly #decisions = new Map<string, Made[]>();
  readonly #deadlines = new Map<string, number>();
  readonly #seenCommands = new Set<string>();
  readonly #twice = new Set<string>();
  readonly #loading = new Set<string>();
  readonly #batches = new Map<Process, Set<{ readonly events: ReadonlySet<EventId>; locked: boolean }>>();
  readonly #purchases = new Map<string, Purchase>();
  readonly #readVersions = new Map<string, { readonly at: number; readonly version: number }[]>();
  readonly #settled = new Map<string, { confirmed: boolean; cancelAsked: boolean; cancelled: boolean }>();
  readonly #answers = new Map<string, number>();
  readonly #queued = new Map<BookingId, QueuedRequest>();
  readonly #outcomes = new Map<BookingId, Decision>();
  /** By event: the place of the last request that was decided. */
  readonly #lastDecided = new Map<EventId, number>();
  /** Requests that clients have a receipt of, and the last word of each. */
  readonly #receipts = new Map<BookingId, string>();
  #places = 0;
  /** How many changes the follower of a shard has heard. */
  readonly #followed = new Map<SimulatedShard, number>();

  constructor(shards: readonly SimulatedShard[]) {
    this.#shards = shards;
  }

  /** How often each answer was given. */
  get answers(): ReadonlyMap<string, number> {
    return this.#answers;
  }

  break(rule: string, what: string): void {
    if (this.broken !== undefined) return;
    this.broken = new RuleBroken(rule, what);
    world().note(`BROKEN ${rule}: ${what}`);
  }

  // What the shards do.

  committed(shard: SimulatedShard, { at, before, state, decided }: Commit): void {
    for (const [id, event] of state.events) {
      const known = before.events.get(id);
      if (known === event) continue;
      const snapshot = model.snapshotOf(state, id) as Snapshot;
      const { availableTickets: left, version } = snapshot.event;
      if (left < 0) this.break("B1", `${id} is oversold: ${left} left`);
      if (known !== undefined && version !== known.version + 1)
        this.break("B9", `the version of ${id} went from ${known.version} to ${version}`);
      if (this.#shards.some((other) => other !== shard && other.state.events.has(id)))
        this.break("R2", `${id} is on two shards`);
      const versions = this.#versions.get(id) ?? [];
      versions.push({ at, snapshot });
      this.#versions.set(id, versions);
      this.#checkUsers(state, id, event.highestMaxPerUser);
      world().note(`${shard.id} ${short(id)} v${version}: ${left} of ${event.totalTickets} left`);
    }
    for (const [command, decision] of decided) {
      const name = nameOf(command);
      const event =
        "booking" in decision
          ? decision.booking.eventId
          : isBookCommand(command)
            ? command.eventId
            : undefined;
      const version = (event && state.events.get(event)?.version) ?? 0;
      append(this.#decisions, name, { at, decision, version });
      if (isBookCommand(command))
        append(this.#decisions, `${command.eventId} ${command.userId}`, { at, decision, version });
      world().note(`${shard.id} ${short(name)}: ${decision.outcome}`);
      if (decision.outcome !== "wrong_shard" && !shard.owned.has(command.slot))
        this.break("R3", `${shard.id} decided about slot ${command.slot}, which it does not own`);
    }
  }

  #checkUsers(state: model.State, id: EventId, max: number): void {
    const tickets = new Map<string, number>();
    const keys = new Set<string>();
    for (const { eventId, userId, key, status, quantity } of state.bookings.values()) {
      if (eventId !== id) continue;
      if (keys.has(`${userId} ${key}`)) this.break("B4", `${userId} has two bookings of key ${key}`);
      keys.add(`${userId} ${key}`);
      if (status === "held" || status === "confirmed")
        tickets.set(userId, (tickets.get(userId) ?? 0) + quantity);
    }
    for (const [user, count] of tickets)
      if (count > max) this.break("B3", `${user} has ${count} tickets of ${max}`);
  }

  /** A shard has decided a request, or let it lapse. */
  settled(shard: SimulatedShard, id: BookingId, decision: Decision): void {
    const before = this.#outcomes.get(id);
    world().note(`${shard.id} request ${short(id)}: ${decision.outcome}`);
    if (before !== undefined)
      this.break(
        before.outcome === "lapsed" || decision.outcome === "lapsed" ? "Q3" : "Q1",
        `request ${id} is ${before.outcome}, and then ${decision.outcome}`,
      );
    this.#outcomes.set(id, decision);
    const queued = this.#queued.get(id);
    if (queued === undefined || decision.outcome === "lapsed") return;
    const last = this.#lastDecided.get(queued.event) ?? 0;
    if (queued.place < last)
      this.break("Q4", `request ${id} is decided behind one that its queue accepted later`);
    this.#lastDecided.set(queued.event, Math.max(last, queued.place));
  }

  // What the queue does.

  accepted(queue: string, requests: readonly RequestCommand[]): void {
    for (const { requestId, eventId } of requests) {
      this.#places += 1;
      // A request that comes twice keeps its place; one that goes on to another queue gets a new one.
      if (this.#queued.get(requestId)?.queue !== queue)
        this.#queued.set(requestId, { event: eventId, queue, place: this.#places });
    }
  }

  acknowledged(node: Process, requests: readonly RequestCommand[]): void {
    for (const { requestId } of requests) {
      const isElsewhere =
        this.#queued.get(requestId)?.queue !== undefined && this.#isForwarded(node, requestId);
      if (!this.#outcomes.has(requestId) && !isElsewhere)
        this.break("Q2", `${node.name} acknowledges request ${requestId}, and nothing has become of it`);
    }
  }

  /** Whether the queue of another shard has it. */
  #isForwarded(node: Process, id: BookingId): boolean {
    const shard = node.name.replace(/^node-(\d+)-.*$/, "shard-$1");
    return this.#queued.get(id)?.queue.includes(`.${shard}.`) === false;
  }

  buried(reason: string): void {
    this.break("Q8", `a request goes to the dead letters: ${reason}`);
  }

  // What routers and nodes do.

  called({
    router,
    path,
    body,
    twice,
  }: {
    router: Process;
    path: string;
    body: string;
    twice: boolean;
  }): void {
    if (path !== RPC.commands) return;
    const { commands, sentAt } = JSON.parse(body) as CommandsRequest;
    world().note(`${router.name} calls with ${commands.map((command) => short(nameOf(command))).join(", ")}`);
    const late = sentAt - Math.max(...commands.map(({ deadline }) => deadline)) - SLACK_MS;
    if (late > 0) this.break("F2", `${router.name} calls ${late} ms after the last moment`);
    this.#checkShares(router, commands, USER_COMMANDS_MAX.router);
    for (const command of commands) {
      this.#deadlines.set(nameOf(command), world().now + command.deadline - sentAt);
      if (twice) this.#twice.add(nameOf(command));
    }
  }

  #checkShares(process: Process, commands: readonly Command[], max: number): void {
    const shares = new Map<string, number>();
    for (const command of commands) {
      const user = userKeyOf(command);
      if (user !== undefined) shares.set(user, (shares.get(user) ?? 0) + 1);
    }
    for (const [user, share] of shares)
      if (share > max) this.break("L1", `${process.name} has ${share} commands of ${user} under way`);
  }

  loading(router: Process, id: EventId): () => void {
    const load = `${router.name} ${router.bootMs} ${id}`;
    if (this.#loading.has(load)) this.break("C6", `${router.name} loads ${id} twice at once`);
    this.#loading.add(load);
    return () => void this.#loading.delete(load);
  }

  batch(node: Process, commands: readonly Command[]): { locked: () => void; over: () => void } {
    const under = this.#batches.get(node) ?? new Set();
    this.#batches.set(node, under);
    this.#checkShares(node, commands, USER_COMMANDS_MAX.node);
    const names = commands.map(nameOf);
    const isNew = !names.some((name) => this.#seenCommands.has(`${node.bootMs} ${name}`));
    const events = new Set(commands.flatMap((command) => (isBookCommand(command) ? command.eventId : [])));
    for (const other of under)
      if (isNew && !other.locked && [...events].some((event) => other.events.has(event)))
        this.break("B8", `${node.name} sends a batch for an event before the one ahead of it has its lock`);
    for (const name of names) {
      this.#seenCommands.add(`${node.bootMs} ${name}`);
      const late = world().now - (this.#deadlines.get(name) ?? Number.POSITIVE_INFINITY);
      if (isNew && this.calmNetwork && late > MARGIN_MS)
        this.break("F2", `${node.name} begins ${name} ${late.toFixed()} ms after its deadline`);
    }
    const batch = { events, locked: false };
    under.add(batch);
    return { locked: () => void (batch.locked = true), over: () => void under.delete(batch) };
  }

  /** A follower of a shard's log hears changes. */
  followed(shard: SimulatedShard, changes: readonly Change[]): void {
    let count = this.#followed.get(shard) ?? 0;
    for (const change of changes) {
      const next = shard.log[count];
      if (!isDeepStrictEqual(change, next))
        return this.break(
          "J2",
          `${shard.id}: after ${next?.position ?? "all"} its follower hears ${change.position}`,
        );
      count += 1;
    }
    this.#followed.set(shard, count);
    return undefined;
  }

  // What clients hear.

  answered(asked: Asked, heard: Heard): void {
    const now = world().now;
    const code = heard === undefined ? "nothing" : heard.status < 400 ? String(heard.status) : codeOf(heard);
    const answer = `${asked.kind} ${code}`;
    this.#answers.set(answer, (this.#answers.get(answer) ?? 0) + 1);
    world().note(
      `${asked.router.name} answers ${asked.user ?? "a reader"}: ${answer} after ${(now - asked.at).toFixed()} ms`,
    );
    this.#checkTime(asked, heard, now);
    if (heard?.status === 500) this.break("F8", `${asked.kind} is answered 500`);
    this.#checkPosition(asked, heard);
    switch (asked.kind) {
      case "book":
      case "hold":
        return this.#bought(asked, heard, code, now);
      case "request":
        return heard?.status === 202
          ? this.#queuedFor(asked, heard.body as Shown)
          : this.#bought(asked, heard, code, now);
      case "receipt":
        return this.#readReceipt(asked, heard);
      case "confirm":
      case "cancel":
        return this.#settledBy(asked, asked.kind, heard, code, now);
      case "event":
      case "change":
      case "create":
        return this.#readEvent(asked, heard, code);
      case "booking":
        return this.#readBooking(asked, heard, code, now);
    }
  }

  /** Whoever has followed the log to the position of an answer knows its booking as it was answered (J5). */
  #checkPosition({ kind }: Asked, heard: Heard): void {
    if (heard === undefined || heard.status >= 300 || !["book", "hold", "confirm", "cancel"].includes(kind))
      return;
    const { id, status } = heard.body as { id: string; status: string };
    const [shardId, position] = heard.headers["onsale-position"]?.split(".") ?? [];
    const log = this.#shards.find((shard) => shard.id === shardId)?.log ?? [];
    const known = log
      .filter((change) => change.position <= Number(position))
      .flatMap(({ bookings }) => bookings.filter((booking) => booking.id === id));
    if (known.at(-1)?.status !== status)
      this.break(
        "J5",
        `at ${shardId} ${position} booking ${id} is ${known.at(-1)?.status}, and was answered ${status}`,
      );
  }

  #checkTime(asked: Asked, heard: Heard, now: number): void {
    if (heard === undefined) return;
    const took = now - asked.at;
    const isRead = asked.kind === "event" || asked.kind === "booking" || asked.kind === "receipt";
    // Redis may take 200 ms before a shard is asked; a reroute begins a read anew.
    const most = isRead
      ? 2 * READ_DEADLINE_MS + REROUTE_MS + 2 * SLACK_MS
      : COMMAND_DEADLINE_MS + SLACK_MS + (BOOKS.has(asked.kind) ? 0 : REROUTE_MS);
    if (took > most + MARGIN_MS && !this.#paused(asked, now))
      this.break("F2", `${asked.kind} is answered after ${took.toFixed()} ms`);
    if (this.#disturbed(asked, now)) return;
    if (heard.status >= 500)
      this.break("F3", `${asked.kind} is answered ${codeOf(heard)}, and nothing disturbs it`);
    if (took > UNDISTURBED_MS)
      this.break("F3", `${asked.kind} takes ${took.toFixed()} ms, and nothing disturbs it`);
  }

  #paused({ router, at }: Asked, now: number): boolean {
    return this.disturbances.some(
      ({ what, from, until, router: of }) =>
        what === "router pause" && of === router.name && from <= now && until >= at,
    );
  }

  /** Whether something was wrong on the way of a request, or is being mended. */
  #disturbed({ kind, router, event, booking, at }: Asked, now: number): boolean {
    const shard = this.#shards.find(({ state }) =>
      event === undefined
        ? booking !== undefined && state.bookings.has(booking as never)
        : state.events.has(event),
    );
    const about = event ?? (booking === undefined ? undefined : this.#row(booking)?.eventId);
    const former = about === undefined ? [] : (this.formerOwners.get(slotOf(about)) ?? []);
    const shards = shard && [shard.id as string, ...former];
    return this.disturbances.some(
      (disturbance) =>
        disturbance.from <= now &&
        disturbance.until + (disturbance.echoMs ?? AFTERLIFE_MS) >= at &&
        (disturbance.kind ?? kind) === kind &&
        (disturbance.router ?? router.name) === router.name &&
        (about === undefined || (disturbance.event ?? about) === about) &&
        (shards === undefined || shards.includes(disturbance.shard ?? shards[0] ?? "")),
    );
  }

  #bought(asked: Asked, heard: Heard, code: string, now: number): void {
    const { event, user, key, at, quantity } = asked as Asked & { event: EventId; user: string };
    const isKeyless = asked.keyless === true;
    const name = `${event} ${user}${isKeyless ? "" : ` ${key}`}`;
    const purchase = this.#purchaseOf(name, event, user, isKeyless ? undefined : key);
    const say = (said: "yes" | "no" | "unknown"): void => void purchase.tries.push({ at, until: now, said });
    if (heard === undefined || code === "outcome_unknown") return say("unknown");
    if (heard.status === 201) {
      say("yes");
      const booking = heard.body as { id: string };
      purchase.ids.add(booking.id);
      const row = this.#row(booking.id);
      if (row === undefined || row.eventId !== event || row.userId !== user || row.quantity !== quantity)
        this.break("F1", `${user} is told of booking ${booking.id}, and there is none like it`);
      this.#shows(asked, event, name, at);
      return undefined;
    }
    const wasDecided = heard.status < 500 && heard.status !== 429;
    // Nothing was done this time; what came of an earlier try stays in doubt.
    say(!wasDecided && purchase.tries.some(({ said }) => said === "unknown") ? "unknown" : "no");
    if (!wasDecided) return undefined;
    const made = (this.#decisions.get(name) ?? []).some(
      (one) => one.at >= at && one.decision.outcome === code,
    );
    if (made) return undefined;
    if (key === undefined && code === "sold_out") {
      if (!this.#wasSoldOut(event, at - SOLD_OUT_FRESH_MS - MARGIN_MS, now))
        this.break("C5", `memory says that ${event} is sold out, and it was not for 250 ms`);
      return undefined;
    }
    this.break("F1", `${user} is told ${code}, and no shard decided that`);
    return undefined;
  }

  /** The client has a receipt, and does not know yet what it will come to. */
  #queuedFor({ event = "" as EventId, user = "", key, at }: Asked, { bookingId }: Shown): void {
    this.#purchaseOf(`${event} ${user} ${key}`, event, user, key).tries.push({
      at,
      until: world().now,
      said: "unknown",
    });
    if (!this.#queued.has(bookingId))
      this.break("Q1", `${user} has a receipt, and no queue has request ${bookingId}`);
    this.#receipts.set(bookingId, "queued");
  }

  #readReceipt({ booking = "", user }: Asked, heard: Heard): void {
    if (heard === undefined || heard.status >= 500) return;
    if (heard.status !== 200)
      return this.break("Q6", `${user} asks for a receipt of theirs, and hears ${codeOf(heard)}`);
    const { bookingId, status, booking: got, problem } = heard.body as Shown;
    if (bookingId !== booking)
      return this.break("Q6", `the receipt of ${booking} is shown as that of ${bookingId}`);
    const word = status === "decided" ? `decided ${got?.id ?? problem?.code}` : status;
    const before = this.#receipts.get(bookingId) ?? "queued";
    if (before !== "queued" && before !== word)
      return this.break("Q3", `the receipt of ${bookingId} says ${word}, and said ${before}`);
    this.#receipts.set(bookingId, word);
    if (got !== undefined && this.#row(got.id)?.userId !== user)
      return this.break(
        "Q1",
        `the receipt of ${bookingId} shows booking ${got.id}, and ${user} has none like it`,
      );
    return undefined;
  }

  #purchaseOf(name: string, event: EventId, user: string, key: string | undefined): Purchase {
    const known = this.#purchases.get(name);
    if (known !== undefined) return known;
    const purchase: Purchase = { event, user, key, tries: [], ids: new Set() };
    this.#purchases.set(name, purchase);
    return purchase;
  }

  /** Whether the event had no ticket at some moment, or every ticket on hold. */
  #wasSoldOut(event: EventId, from: number, until: number): boolean {
    const versions = this.#versions.get(event) ?? [];
    return versions.some(({ at, snapshot }, index) => {
      const ends = versions[index + 1]?.at ?? Number.POSITIVE_INFINITY;
      return snapshot.event.availableTickets === 0 && at <= until && ends >= from;
    });
  }

  #settledBy(asked: Asked, kind: "confirm" | "cancel", heard: Heard, code: string, now: number): void {
    const { booking = "", at } = asked;
    const known = this.#settled.get(booking) ?? { confirmed: false, cancelAsked: false, cancelled: false };
    this.#settled.set(booking, known);
    if (heard?.status === 200) {
      const status = (heard.body as { status: string }).status;
      if (status !== (kind === "confirm" ? "confirmed" : "cancelled"))
        this.break("B11", `after a ${kind} of ${booking} its status is ${status}`);
      if (kind === "confirm") known.confirmed = true;
      else known.cancelled = true;
      const event = this.#row(booking)?.eventId;
      if (event !== undefined) this.#shows(asked, event, `${kind} ${booking}`, at);
      return;
    }
    if (heard === undefined || heard.status >= 500 || heard.status === 429) return;
    const decisions = this.#decisions.get(`${kind} ${booking}`) ?? [];
    if (!decisions.some((one) => one.at >= at && one.at <= now && one.decision.outcome === code))
      this.break("F1", `a ${kind} of ${booking} is told ${code}, and no shard decided that`);
  }

  /** A client begins to cancel: from now on its booking need not stay confirmed. */
  cancelling(booking: string): void {
    const known = this.#settled.get(booking) ?? { confirmed: false, cancelAsked: false, cancelled: false };
    known.cancelAsked = true;
    this.#settled.set(booking, known);
  }

  /** From now on this router shows at least what a write has left (C1). */
  #shows({ router }: Asked, event: EventId, name: string, since: number): void {
    const made = (this.#decisions.get(name) ?? []).filter(({ at, version }) => at >= since && version > 0);
    const [first] = made;
    if (first !== undefined) this.#knows(router, event, first.version);
  }

  #knows(router: Process, event: EventId, version: number): void {
    append(this.#readVersions, `${router.name} ${router.bootMs} ${event}`, { at: world().now, version });
  }

  #readEvent({ router, event, at }: Asked, heard: Heard, code: string): void {
    if (heard === undefined || heard.status >= 500) return;
    if (heard.status >= 400) {
      if (code === "event_not_found")
        this.break("A2", `${event} exists, and ${router.name} says that it does not`);
      return;
    }
    const shown = heard.body as Event;
    const versions = this.#versions.get(shown.id) ?? [];
    const same = versions.find(({ snapshot }) => snapshot.event.version === shown.version);
    if (same === undefined)
      return this.break("A2", `nobody committed version ${shown.version} of ${shown.id}`);
    if (JSON.stringify(same.snapshot.event, Object.keys(shown)) !== JSON.stringify(shown, Object.keys(shown)))
      return this.break("A2", `version ${shown.version} of ${shown.id} never was as ${router.name} shows it`);
    const known = this.#readVersions.get(`${router.name} ${router.bootMs} ${shown.id}`) ?? [];
    for (const { at: since, version } of known)
      if (since <= at && version > shown.version)
        return this.break(
          "C2",
          `${router.name} showed version ${version} of ${shown.id}, and now ${shown.version}`,
        );
    this.#knows(router, shown.id, shown.version);
    const bound = (this.lateNews ? 5_000 : 1_000) + MARGIN_MS;
    const missed = versions.find(({ snapshot }) => snapshot.event.version === shown.version + 1);
    if (missed !== undefined && missed.at < at - bound)
      this.break(
        "C3",
        `${router.name} shows version ${shown.version} of ${shown.id}, ${(at - missed.at).toFixed()} ms after the next`,
      );
  }

  #readBooking({ booking = "", user, at }: Asked, heard: Heard, code: string, now: number): void {
    if (heard === undefined || heard.status >= 500) return;
    const row = this.#row(booking);
    if (code === "booking_not_found") {
      if (row !== undefined && row.userId === user)
        this.break("A5", `booking ${booking} exists, and is not found`);
      return;
    }
    const { status } = heard.body as { status: string };
    const states = this.#shards.flatMap((shard) => shard.commits);
    const could = states.some(({ at: since, state }, index) => {
      const next =
        states.slice(index + 1).find((later) => later.state.bookings.has(booking as never))?.at ?? now;
      const stored = state.bookings.get(booking as never);
      if (stored === undefined || since > now || next < at) return false;
      return stored.status === status || (status === "expired" && stored.status === "held");
    });
    if (!could) this.break("A5", `booking ${booking} is shown ${status}, and was not`);
  }

  // The end.

  /** Purchases whose outcome their clients do not know. */
  get doubtful(): readonly Pick<Purchase, "event" | "user" | "key">[] {
    return [...this.#purchases.values()].filter(
      ({ key, tries }) => key !== undefined && tries.at(-1)?.said === "unknown",
    );
  }

  checkEnd(): void {
    for (const [name, { event, user, key, tries, ids }] of this.#purchases) {
      const rows = this.#rowsOf(event).filter(
        (row) => row.userId === user && (key === undefined || row.key === key),
      );
      if (rows.length > 1) this.break("F1", `one request of ${user} made ${rows.length} bookings`);
      if (ids.size > 1) this.break("B5", `${user} was told of ${ids.size} bookings for one key`);
      if (ids.size === 1 && rows.length === 0) this.break("F1", `the booking of ${user} is lost`);
      const last = tries.at(-1);
      const mayComeLater = tries.some(
        ({ said, at }) => said === "unknown" && at + AFTERLIFE_MS > (last?.at ?? 0),
      );
      if (
        last?.said === "no" &&
        !mayComeLater &&
        !this.#twice.has(name) &&
        !this.#isTwice(name) &&
        rows.length > 0 &&
        ids.size === 0
      )
        this.break("F1", `${user} was told no, and has booking ${rows[0]?.id}`);
    }
    for (const [id, word] of this.#receipts) {
      const outcome = this.#outcomes.get(id)?.outcome;
      if (outcome === undefined)
        this.break("Q2", `nothing became of request ${id}, of which there is a receipt`);
      if (word === "queued") this.break("Q2", `the receipt of ${id} says at the end that it is queued`);
      if (outcome !== "booked" && this.#row(id) !== undefined)
        this.break("Q3", `request ${id} came to ${outcome}, and has a booking`);
    }
    for (const { id, log } of this.#shards.filter((shard) => this.#followed.get(shard) !== shard.log.length))
      if (log.length > 0)
        this.break("J2", `the follower of ${id} has not heard of all ${log.length} changes`);
    for (const [booking, { confirmed, cancelAsked, cancelled }] of this.#settled) {
      const status = this.#row(booking)?.status;
      if (cancelled && status !== "cancelled") this.break("B11", `cancelled booking ${booking} is ${status}`);
      if (confirmed && !cancelAsked && status !== "confirmed")
        this.break("F1", `confirmed booking ${booking} is ${status}`);
    }
  }

  /** The key of a request without one is made by its router. */
  #isTwice(name: string): boolean {
    return [...this.#twice].some((twice) => twice.startsWith(`${name} `));
  }

  #row(booking: string): model.StoredBooking | undefined {
    for (const { state } of this.#shards) {
      const row = state.bookings.get(booking as never);
      if (row !== undefined) return row;
    }
    return undefined;
  }

  #rowsOf(event: EventId): model.StoredBooking[] {
    return this.#shards.flatMap(({ state }) =>
      [...state.bookings.values()].filter(({ eventId }) => eventId === event),
    );
  }
}

function nameOf(command: Command): string {
  return isBookCommand(command)
    ? `${command.eventId} ${command.userId} ${command.key}`
    : `${command.kind} ${command.bookingId}`;
}

function short(name: string): string {
  return name.replaceAll(/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{8}([0-9a-f]{4})/g, "…$1");
}

function codeOf(heard: Exclude<Heard, undefined>): string {
  return (heard.body as { code?: string }).code ?? String(heard.status);
}

function append<T>(map: Map<string, T[]>, name: string, item: T): void {
  const known = map.get(name);
  if (known === undefined) map.set(name, [item]);
  else known.push(item);
}
