/**
 * Decides a batch: commands go to decide_batch() (migrations/shard/0014_changes.sql) as columns, and the decisions
 * come back as columns. A batch with booking requests goes through decide_requests(), which keeps their outcomes.
 */
import {
  type BookCommand,
  type Command,
  isBookCommand,
  isRequest,
  type SettleCommand,
} from "../../shared/domain/commands.ts";
import type { Booking } from "../../shared/domain/bookings.ts";
import type { Decision, Failure } from "../../shared/domain/outcomes.ts";
import type { Snapshot } from "../../shared/domain/events.ts";
import type { BookingId, EventId } from "../../shared/domain/ids.ts";
import { invariant } from "../../shared/domain/invariant.ts";
import { REQUEST_MAX_AGE_SECONDS } from "../../shared/domain/requests.ts";
import { type BookingRow, bookingFrom, type EventRow, iso, snapshotFrom } from "./rows.ts";
import { decisionOf, type OutcomeRow } from "./requests.ts";
import { bounded, boundsOf, oneRow } from "./row-locks.ts";
import type { Database } from "../../shared/database/database.ts";
import { type Slot, slotOf } from "../../shared/domain/slots.ts";
import type { Span } from "../../shared/watch/tracing.ts";

const DECIDE_BATCH = bounded(
  "decide-batch",
  "decide_batch($3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)",
);
const DECIDE_REQUESTS = bounded(
  "decide-requests",
  "decide_requests($3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)",
);
/** The notice of decide_batch() when it holds the locks of its events. */
const LOCKED = "locked";

interface BatchRow {
  now: string;
  lockWaitSeconds: number;
  /** By position of the booking command. An element is null if its command was granted, and the array if all were. */
  outcomes: (string | null)[] | null;
  numbers: number[] | null;
  /** By position of the event. */
  maxPerUser: number[] | null;
  /** By position of the booking command, counted from 1. */
  replays: Record<string, BookingRow> | null;
  settled: { outcome: string; booking: BookingRow | null }[] | null;
  locked: EventId[] | null;
  snapshots: EventRow[];
  position: number | null;
}

/** Requests of the batch that had an outcome already, by position from 1. Nothing else was decided. */
interface DoneRow {
  now: string;
  done: Record<string, OutcomeRow>;
}

/** The moment of a batch, in both forms that bookings need. */
interface Moment {
  readonly ms: number;
  readonly iso: string;
}

export interface BatchDecision {
  /** One per command, in the order of the commands. `overloaded` says that somebody else holds the event's lock. */
  readonly decisions: readonly (Decision | Failure)[];
  /** The events whose locks somebody else holds. Nothing was decided about them. */
  readonly lockedEvents: readonly EventId[];
  /** Each event of the batch, as the batch left it. */
  readonly snapshots: readonly Snapshot[];
  /** Whoever has followed the log to here knows every booking in `decisions`. Undefined when there is none. */
  readonly position: number | undefined;
  readonly lockWaitSeconds: number;
}

export interface DecideOptions {
  /** The moment of the decision, for tests that choose it. */
  readonly at?: Date;
  /** Called as soon as the batch holds the locks of its events. A batch that asks for them later is decided later. */
  readonly locked?: (() => void) | undefined;
  /** How long to wait for the lock of an event, in milliseconds; by default the database's lock timeout. */
  readonly lockWaitMs?: number | undefined;
  /** Events whose locks somebody else held lately: their locks are not waited for. */
  readonly doubted?: readonly EventId[] | undefined;
  /** False: no event's lock is waited for. */
  readonly waits?: boolean | undefined;
  /** A booking request that is older lapses. */
  readonly requestMaxAgeSeconds?: number | undefined;
  /** The batch's span, when one of its commands is sampled. */
  readonly span?: Span | undefined;
}

/** Ids of new bookings, by position of their booking command. A second try uses the same ids and so knows its own bookings. */
export type FreshIds = readonly BookingId[];

/** Decides commands, and ends the due holds of their events and of `alsoExpire`, in one transaction. Throws DatabaseError. */
export async function decideBatch(
  database: Database,
  commands: readonly Command[],
  ids: FreshIds,
  alsoExpire: readonly EventId[],
  options: DecideOptions,
): Promise<BatchDecision> {
  const { at, locked, lockWaitMs, doubted = [], waits = true, requestMaxAgeSeconds, span } = options;
  const bookings = commands.filter(isBookCommand);
  const settling = commands.filter((command): command is SettleCommand => !isBookCommand(command));
  const slots = new Map<EventId, Slot>();
  for (const { eventId, slot } of bookings) slots.set(eventId, slot);
  for (const event of alsoExpire) slots.set(event, slotOf(event));
  const events = [...slots.keys()];
  const positionOf = new Map(events.map((event, index) => [event, index + 1]));
  const positions = bookings.map(({ eventId }) => positionOf.get(eventId) ?? 0);
  const values = [
    ...boundsOf(database),
    plainArray(events),
    plainArray([...slots.values()]),
    plainArray(positions),
    textArray(bookings.map((command) => command.userId)),
    plainArray(bookings.map((command) => command.quantity)),
    plainArray(bookings.map((command) => (command.kind === "hold" ? command.ttlSeconds : 0))),
    textArray(bookings.map((command) => command.key)),
    plainArray(ids),
    plainArray(settling.map((command) => command.kind)),
    plainArray(settling.map((command) => command.bookingId)),
    plainArray(settling.map((command) => command.slot)),
    settling.map((command) => command.userId),
    at ?? null,
    locked !== undefined,
    lockWaitMs ?? null,
    plainArray(doubted),
    waits,
  ];
  const noticed = (message: string | undefined): void => {
    if (message === LOCKED) locked?.();
  };
  const requests = bookings.map(isRequest);
  const hasRequests = requests.includes(true);
  if (hasRequests) values.push(plainArray(requests), requestMaxAgeSeconds ?? REQUEST_MAX_AGE_SECONDS);
  const statement = hasRequests ? DECIDE_REQUESTS : DECIDE_BATCH;
  const { result } = await oneRow<{ result: BatchRow | DoneRow }>(database, statement, values, span, noticed);
  if ("done" in result) {
    const decideOthers: DecideOthers = async (others, otherIds) =>
      decideBatch(database, others, otherIds, alsoExpire, options);
    return decideAround(result, commands, ids, decideOthers);
  }
  const now = iso(result.now);
  const moment: Moment = { ms: Date.parse(now), iso: now };
  let [booking, settled] = [0, 0];
  return {
    decisions: commands.map((command) => {
      if (!isBookCommand(command)) return settleDecisionFrom(result, settled++, moment);
      const index = booking++;
      return bookDecisionFrom(command, index, ids[index], result, positions[index] ?? 0, moment);
    }),
    lockedEvents: result.locked ?? [],
    snapshots: result.snapshots.map(snapshotFrom),
    position: result.position ?? undefined,
    lockWaitSeconds: result.lockWaitSeconds,
  };
}

type DecideOthers = (commands: readonly Command[], ids: FreshIds) => Promise<BatchDecision>;

/** Decides the commands beside the requests that were done before. */
async function decideAround(
  { done, now }: DoneRow,
  commands: readonly Command[],
  ids: FreshIds,
  decideOthers: DecideOthers,
): Promise<BatchDecision> {
  const nowMs = Date.parse(iso(now));
  const others: Command[] = [];
  const otherIds: BookingId[] = [];
  let position = 0;
  const known = commands.map((command) => {
    const id = isBookCommand(command) ? ids[position++] : undefined;
    const row = id === undefined ? undefined : done[position];
    if (row !== undefined) return decisionOf(row, nowMs);
    others.push(command);
    if (id !== undefined) otherIds.push(id);
    return undefined;
  });
  const nothing = { decisions: [], lockedEvents: [], snapshots: [], position: undefined, lockWaitSeconds: 0 };
  const rest = others.length === 0 ? nothing : await decideOthers(others, otherIds);
  let next = 0;
  const decisions = known.map((decision) => {
    const decided = decision ?? rest.decisions[next++];
    invariant(decided !== undefined, "every command of a batch is decided", { commands: commands.length });
    return decided;
  });
  return { ...rest, decisions };
}

function bookDecisionFrom(
  command: BookCommand,
  index: number,
  id: BookingId | undefined,
  result: BatchRow,
  position: number,
  moment: Moment,
): Decision | Failure {
  const asAsked = command.kind === "hold" ? "held" : "booked";
  const outcome = result.outcomes?.[index] ?? asAsked;
  invariant(id !== undefined, "a booking command has an id", { index });
  const number = result.numbers?.[index] ?? 0;
  switch (outcome) {
    case "booked":
    case "held":
      return { outcome, booking: newBooking(command, id, moment) };
    case "replayed": {
      const row = result.replays?.[index + 1];
      invariant(row !== undefined, "a replay comes with its booking", { index });
      const booking = bookingFrom(row, moment.ms);
      // A second try whose first try was committed finds its own bookings. Those are no replays of a client.
      return { outcome: row.id === id ? asAsked : "replayed", booking };
    }
    case "insufficient_tickets":
      return { outcome, availableTickets: number };
    case "user_limit_exceeded":
      return { outcome, held: number, maxPerUser: result.maxPerUser?.[position - 1] ?? 0 };
    case "sold_out":
    case "sales_not_open":
    case "event_not_found":
    case "idempotency_key_reused":
    case "wrong_shard":
      return { outcome };
    case "event_locked":
      return { outcome: "overloaded" };
    default:
      throw new Error(`decide_batch answered an unknown outcome: ${outcome}`);
  }
}

function settleDecisionFrom(result: BatchRow, index: number, moment: Moment): Decision | Failure {
  const { outcome, booking } = result.settled?.[index] ?? { outcome: "missing", booking: null };
  switch (outcome) {
    case "confirmed":
    case "cancelled":
      invariant(booking !== null, "a settled command comes with its booking", { index });
      return { outcome, booking: bookingFrom(booking, moment.ms) };
    case "hold_expired":
    case "sales_not_open":
    case "booking_not_found":
    case "wrong_shard":
      return { outcome };
    case "event_locked":
      return { outcome: "overloaded" };
    default:
      throw new Error(`decide_batch answered an unknown outcome: ${outcome}`);
  }
}

/**
 * An array as PostgreSQL reads it (manual §8.15.2), of elements without special characters: ids, numbers and our own
 * words. shared/database/types.ts writes any array, but examines every element. Text of clients goes through `textArray`.
 */
function plainArray(elements: readonly (string | number | boolean)[]): string {
  return `{${elements.join(",")}}`;
}

/** JSON quotes text as PostgreSQL wants it. Only the escapes differ, so text that needs one is escaped here. */
function textArray(elements: readonly string[]): string {
  const json = JSON.stringify(elements);
  return json.includes("\\")
    ? `{${elements.map((element) => `"${element.replace(/["\\]/g, "\\$&")}"`).join(",")}}`
    : `{${json.slice(1, -1)}}`;
}

function newBooking(command: BookCommand, id: BookingId, moment: Moment): Booking {
  const held = command.kind === "hold";
  return {
    id,
    eventId: command.eventId,
    userId: command.userId,
    quantity: command.quantity,
    status: held ? "held" : "confirmed",
    expiresAt: held ? new Date(moment.ms + command.ttlSeconds * 1000).toISOString() : null,
    createdAt: moment.iso,
    updatedAt: moment.iso,
  };
}
