/**
 * Compares what the witness saw with what is in the cluster when all is over. It knows nothing of how the cluster works:
 * only what its answers promise.
 */
import type { Answer, Entry, Sent, WatchedEvent } from "./log.ts";

/** A booking as the cluster has it. */
export interface Row {
  readonly id: string;
  readonly eventId: string;
  readonly userId: string;
  readonly quantity: number;
  readonly status: string;
  /** null where only the API was asked: it does not say. */
  readonly key: string | null;
}

/** What the cluster has of the watched events. */
export interface Facts {
  readonly rows: readonly Row[];
  /** Are these all rows of the events, or those only that the witness knows by their id? */
  readonly complete: boolean;
  readonly events: ReadonlyMap<string, { readonly version: number; readonly availableTickets: number }>;
}

export interface Promises {
  /** A read that is sent this long after a change was seen shows it, whichever router it goes to (C3, C4). */
  readonly staleMs: number;
  /** One router behind each URL: it shows at once what it has shown or done before (C1, C2). */
  readonly oneRouterEach: boolean;
}

/** What must not be, by the promise that it breaks. */
export interface Problem {
  readonly promise:
    | "kept" // a confirmed booking is there, once, with its content
    | "refused" // a refusal leaves nothing
    | "once" // a request leaves one booking at most, however often it was sent
    | "receipt" // a receipt says once and for all what became of its request; a lapsed one left nothing
    | "asked" // nothing is there that nobody asked for
    | "limit"
    | "conserved"
    | "forward" // versions never go back
    | "fresh"; // nothing read is older than promised
  readonly message: string;
}

interface Attempt {
  readonly sent: Sent;
  readonly answer: Answer | undefined;
}

/** Nobody knows whether this was done: no answer, or one that says so. */
export const isUnknown = (answer: Answer | undefined): boolean =>
  answer === undefined ||
  answer.status === null ||
  answer.code === "outcome_unknown" ||
  answer.status === 500;

/** A command that was sent this long ago is not started any more: beyond the deadline of any command. */
const UNDER_WAY_MAX_MS = 10_000;

export function check(entries: readonly Entry[], facts: Facts, promises: Promises): Problem[] {
  const problems: Problem[] = [];
  const say = (promise: Problem["promise"], message: string) => problems.push({ promise, message });
  const watched = new Map<string, WatchedEvent>();
  const attempts = attemptsIn(entries, watched);
  const rowsById = Map.groupBy(facts.rows, ({ id }) => id);
  const given = givenIn(attempts);
  checkReceipts(attempts, rowsById, say);
  checkRequests(attempts, { facts, rowsById, given }, say);
  checkEvents(watched, attempts, { facts, given }, say);
  checkReads(attempts, facts, promises, say);
  return problems;
}

/** Every request with its answer, in the order in which they were sent. */
export function attemptsIn(entries: readonly Entry[], watched = new Map<string, WatchedEvent>()): Attempt[] {
  const answers = new Map<number, Answer>();
  for (const entry of entries) {
    if (entry.type === "answer") answers.set(entry.id, entry);
    if (entry.type === "event") watched.set(entry.id, entry);
  }
  const sent = entries.filter((entry) => entry.type === "sent");
  return sent.map((request) => ({ sent: request, answer: answers.get(request.id) }));
}

type Say = (promise: Problem["promise"], message: string) => void;

/** Requests with the same key are one request that was sent again; one without a key stands alone. */
const requestOf = ({ id, event, user, key }: Sent): string =>
  key === undefined ? `request ${id}` : `${event} ${user} ${key}`;

/** The booking that a request got: at once, or in the end, as its receipt says. */
type Given = (attempt: Attempt) => Pick<Row, "id" | "eventId" | "userId" | "quantity"> | undefined;

function givenIn(attempts: readonly Attempt[]): Given {
  const byReceipt = new Map(
    attempts.flatMap(({ answer }) =>
      answer?.request?.booking === undefined
        ? []
        : [[answer.request.receipt, answer.request.booking] as const],
    ),
  );
  return ({ answer }) =>
    answer?.status === 201 ? answer.booking : byReceipt.get(answer?.request?.receipt ?? "");
}

function checkReceipts(
  attempts: readonly Attempt[],
  rowsById: ReadonlyMap<string, readonly Row[]>,
  say: Say,
): void {
  const looks = Map.groupBy(
    attempts.filter(({ sent }) => sent.operation === "follow"),
    ({ sent }) => sent.receipt,
  );
  for (const { sent, answer } of attempts) {
    if (answer?.status !== 202) continue;
    const accepted = answer.request;
    if (accepted === undefined) {
      say("receipt", `request ${sent.id} was accepted without a receipt`);
      continue;
    }
    const { receipt, bookingId } = accepted;
    const own = looks.get(receipt) ?? [];
    const said = own.flatMap((look) =>
      look.answer?.request === undefined
        ? []
        : [{ ...look.answer.request, sentAt: look.sent.at, at: look.answer.at }],
    );
    const settled = said.filter(({ status }) => status !== "queued");
    const settledAt = Math.min(...settled.map(({ at }) => at));
    // A booking may be confirmed, cancelled or expire later. It stays the same booking.
    const words = [
      ...new Set(
        settled.map(({ status, booking, problem }) => `${status} ${booking?.id ?? problem?.code ?? ""}`),
      ),
    ];
    if (own.some((look) => look.answer?.status === 404))
      say("receipt", `${receipt} was given, and not found later`);
    if (words.length === 0) say("receipt", `nothing ever became of ${receipt}`);
    if (words.length > 1) say("receipt", `${receipt} said one thing, then another: ${words.join(", ")}`);
    if (said.some(({ status, sentAt }) => status === "queued" && sentAt > settledAt))
      say("receipt", `${receipt} was settled, and then queued again`);
    for (const each of [accepted, ...said])
      if (each.eventId !== sent.event || each.quantity !== sent.quantity || each.bookingId !== bookingId)
        say("receipt", `${receipt} is of another request than ${sent.id}: ${JSON.stringify(each)}`);
    if (rowsById.has(bookingId) && settled.every(({ booking }) => booking?.id !== bookingId))
      say("receipt", `${receipt} said ${words.join(", ")}, and left ${bookingId}`);
  }
}

function checkRequests(
  attempts: readonly Attempt[],
  {
    facts,
    rowsById,
    given: givenTo,
  }: { facts: Facts; rowsById: ReadonlyMap<string, readonly Row[]>; given: Given },
  say: Say,
): void {
  const bookings = attempts.filter(({ sent }) => sent.operation === "book" || sent.operation === "hold");
  const others = Map.groupBy(
    attempts.filter(({ sent }) => sent.booking !== undefined),
    ({ sent }) => sent.booking ?? "",
  );
  const rowsByKey = Map.groupBy(facts.rows, ({ eventId, userId, key }) => `${eventId} ${userId} ${key}`);
  const accounted = new Set<string>();
  /** Requests without a key whose answer is missing: whose rows, if any, are only known by user and quantity. */
  const loose: Sent[] = [];

  for (const [request, tries] of Map.groupBy(bookings, ({ sent }) => requestOf(sent))) {
    const [first] = tries;
    if (first === undefined) continue;
    const { sent } = first;
    const given = [...new Set(tries.flatMap((attempt) => givenTo(attempt)?.id ?? []))];
    const rows = sent.key === undefined ? [] : (rowsByKey.get(request) ?? []);
    for (const { id } of rows) accounted.add(id);
    for (const attempt of tries) {
      const [{ answer }, said] = [attempt, givenTo(attempt)];
      if (said === undefined ? answer?.status === 201 : !isAsAsked(sent, said))
        say("kept", `${request} asked for ${sent.quantity} and was given ${JSON.stringify(said)}`);
    }
    if (given.length > 1) say("once", `${request} was given ${given.length} bookings: ${given.join(", ")}`);
    if (rows.length > 1)
      say("once", `${request} left ${rows.length} rows: ${rows.map(({ id }) => id).join(", ")}`);
    for (const id of given) {
      accounted.add(id);
      const found = rowsById.get(id) ?? [];
      if (found.length !== 1)
        say("kept", `${request} was given ${id}, of which there are ${found.length} rows`);
      const [row] = found;
      if (row !== undefined) checkContent(request, sent, row, others.get(id) ?? [], say);
    }
    if (given.length > 0) continue;
    if (mayHaveBeenDone(tries)) {
      if (sent.key === undefined) loose.push(sent);
    } else if (rows.length > 0) {
      const last = tries.at(-1)?.answer;
      say(
        "refused",
        `${request} was refused (${last?.status} ${last?.code}) and left ${rows.map(({ id }) => id).join(", ")}`,
      );
    }
  }

  if (!facts.complete) return;
  for (const row of facts.rows) {
    if (accounted.has(row.id)) continue;
    const place = loose.findIndex(
      ({ event, user, quantity }) =>
        event === row.eventId && user === row.userId && quantity === row.quantity,
    );
    if (place < 0) say("asked", `nobody asked for ${JSON.stringify(row)}`);
    else loose.splice(place, 1);
  }
}

/**
 * No answer was a booking. A refusal is the last word, unless an earlier try of the same request had no answer and may
 * still have been under way when the refusal was made.
 */
function mayHaveBeenDone(tries: readonly Attempt[]): boolean {
  const unknown = tries.filter(({ answer }) => isUnknown(answer));
  const refusedAt = tries
    .filter(({ answer }) => !isUnknown(answer) && answer?.status !== 503 && answer?.status !== 429)
    .map(({ sent }) => sent.at);
  // A queue may have it, and nobody has its receipt.
  const underWayMs = (sent: Sent) => (sent.async === true ? Infinity : UNDER_WAY_MAX_MS);
  return unknown.some(({ sent }) => refusedAt.every((at) => at < sent.at + underWayMs(sent)));
}

function checkContent(request: string, sent: Sent, row: Row, others: readonly Attempt[], say: Say): void {
  const { user, quantity, key } = sent;
  if (!isAsAsked(sent, row) || (row.key !== null && key !== undefined && row.key !== key))
    say("kept", `${request} asked for ${quantity} and left ${JSON.stringify(row)}`);
  const allowed = statusesAfter(sent, others);
  if (!allowed.has(row.status))
    say("kept", `${request} left ${row.id} as ${row.status}; it must be ${[...allowed].join(" or ")}`);
  for (const { sent: shown, answer } of others) {
    if (shown.operation === "show" && answer?.status === 404)
      say("kept", `${row.id} was confirmed to ${user}, and not found by request ${shown.id}`);
  }
}

const isAsAsked = (sent: Sent, had: Pick<Row, "eventId" | "userId" | "quantity">): boolean =>
  had.eventId === sent.event && had.userId === sent.user && had.quantity === sent.quantity;

/** What may have become of a booking, by the answers to all that was asked of it. */
function statusesAfter({ operation }: Sent, others: readonly Attempt[]): ReadonlySet<string> {
  const is = (kind: Sent["operation"], holds: (answer: Answer | undefined) => boolean) =>
    others.some(({ sent, answer }) => sent.operation === kind && holds(answer));
  if (is("cancel", (answer) => answer?.booking?.status === "cancelled")) return new Set(["cancelled"]);
  const isConfirmed =
    operation === "book" || is("confirm", (answer) => answer?.booking?.status === "confirmed");
  const allowed = new Set(isConfirmed ? ["confirmed"] : ["held", "expired"]);
  if (is("confirm", isUnknown)) allowed.add("confirmed");
  if (is("cancel", isUnknown)) allowed.add("cancelled");
  return allowed;
}

function checkEvents(
  watched: ReadonlyMap<string, WatchedEvent>,
  attempts: readonly Attempt[],
  { facts, given }: { facts: Facts; given: Given },
  say: Say,
): void {
  const live = facts.rows.filter(({ status }) => status === "held" || status === "confirmed");
  const rowsOf = Map.groupBy(live, ({ eventId }) => eventId);
  for (const { id, totalTickets, maxPerUser } of watched.values()) {
    const fact = facts.events.get(id);
    if (fact === undefined) {
      say("kept", `event ${id} is not there`);
      continue;
    }
    const rows = rowsOf.get(id) ?? [];
    for (const [user, own] of Map.groupBy(rows, ({ userId }) => userId)) {
      if (sum(own) > maxPerUser)
        say("limit", `${user} has ${sum(own)} tickets of ${id}, and may have ${maxPerUser}`);
    }
    // By the API alone, bookings whose answer was lost are not known. They are then the only difference there may be.
    const lost = facts.complete ? 0 : ticketsInDoubt(id, attempts, given);
    const missing = totalTickets - fact.availableTickets - sum(rows);
    if (missing < 0 || missing > lost)
      say(
        "conserved",
        `${id} has ${totalTickets} tickets, ${fact.availableTickets} left, ${sum(rows)} taken`,
      );
  }
}

function ticketsInDoubt(event: string, attempts: readonly Attempt[], given: Given): number {
  const bookings = attempts.filter(
    ({ sent }) => sent.event === event && (sent.operation === "book" || sent.operation === "hold"),
  );
  let tickets = 0;
  for (const tries of Map.groupBy(bookings, ({ sent }) => requestOf(sent)).values()) {
    const isGiven = tries.some((attempt) => given(attempt) !== undefined);
    if (!isGiven && mayHaveBeenDone(tries)) tickets += tries[0]?.sent.quantity ?? 0;
  }
  return tickets;
}

const sum = (rows: readonly Row[]): number => rows.reduce((tickets, { quantity }) => tickets + quantity, 0);

/** From `at` on, `version` or a newer one has been seen or made. */
interface Sight {
  readonly at: number;
  readonly version: number;
  readonly router: number;
}

function checkReads(attempts: readonly Attempt[], facts: Facts, promises: Promises, say: Say): void {
  const lifeOf = livesOf(attempts);
  for (const [event, all] of Map.groupBy(attempts, ({ sent }) => sent.event)) {
    const reads = all.flatMap(({ sent, answer }) =>
      sent.operation === "read" && answer?.event !== undefined
        ? [{ sent, at: answer.at, version: answer.event.version }]
        : [],
    );
    const newest = facts.events.get(event)?.version;
    const sights = sightsOf(all, reads);
    const anywhere = new Newest(sights);
    const here = new Map(
      [...Map.groupBy(sights, ({ router, at }) => lifeOf(router, at))].map(([life, own]) => [
        life,
        new Newest(own),
      ]),
    );
    for (const { sent, version } of reads) {
      const where = `request ${sent.id}, router ${sent.router}: version ${version} of ${event}`;
      if (newest !== undefined && version > newest)
        say("forward", `${where} was read; the newest there is ${newest}`);
      const old = anywhere.before(sent.at - promises.staleMs);
      if (version < old) say("fresh", `${where}; ${old} was there ${promises.staleMs} ms before it was sent`);
      if (!promises.oneRouterEach) continue;
      const own = here.get(lifeOf(sent.router, sent.at))?.before(sent.at) ?? 0;
      if (version < own) say("forward", `${where}; the same router had ${own} before it was sent`);
    }
  }
}

/** What reads showed, and what a first confirmation proves: a version above all that were read before it was sent. */
function sightsOf(
  all: readonly Attempt[],
  reads: readonly { sent: Sent; at: number; version: number }[],
): Sight[] {
  const shown = reads.map(({ sent, at, version }) => ({ at, version, router: sent.router }));
  const before = new Newest(shown);
  const asked = new Set<string>();
  const made = all.flatMap(({ sent, answer }): Sight[] => {
    if (sent.operation !== "book" && sent.operation !== "hold") return [];
    const isFirst = !asked.has(requestOf(sent));
    asked.add(requestOf(sent));
    if (!isFirst || answer?.status !== 201) return [];
    return [{ at: answer.at, version: before.before(sent.at) + 1, router: sent.router }];
  });
  return [...shown, ...made];
}

/** The newest version that was seen before a moment. */
class Newest {
  readonly #times: readonly number[];
  readonly #newest: number[] = [];

  constructor(sights: readonly Sight[]) {
    const inOrder = sights.toSorted((a, b) => a.at - b.at);
    this.#times = inOrder.map(({ at }) => at);
    for (const { version } of inOrder) this.#newest.push(Math.max(version, this.#newest.at(-1) ?? 0));
  }

  /** 0 when nothing was seen before. */
  before(at: number): number {
    return this.#newest[countBefore(this.#times, at) - 1] ?? 0;
  }
}

/**
 * Names the router that answers at a URL at a moment, as far as its clients can know: after a request without an answer it
 * may be a new one, with an empty memory.
 */
function livesOf(attempts: readonly Attempt[]): (router: number, at: number) => string {
  const ends = new Map<number, number[]>();
  for (const { sent, answer } of attempts) {
    if (answer?.status !== null) continue;
    const times = ends.get(sent.router);
    if (times === undefined) ends.set(sent.router, [answer.at]);
    else times.push(answer.at);
  }
  for (const [router, times] of ends)
    ends.set(
      router,
      times.toSorted((a, b) => a - b),
    );
  return (router, at) => `${router} ${countBefore(ends.get(router) ?? [], at)}`;
}

/** How many of the times, which rise, are before this one. */
function countBefore(times: readonly number[], at: number): number {
  let [low, high] = [0, times.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((times[middle] ?? 0) >= at) high = middle;
    else low = middle + 1;
  }
  return low;
}
