/**
 * The booking rules, written to be read: what decide_batch and change_event (migrations/shard/) must answer and store.
 * A state is events and bookings; every function takes one and returns another. Nothing here counts tickets along the
 * way: what is available is always computed from the bookings, so that no ticket can be lost or doubled by the model.
 */
import { isDeepStrictEqual } from "node:util";
import { type BookingId, slotOfBooking } from "../../shared/domain/ids.ts";
import { type Slot, slotOf } from "../../shared/domain/slots.ts";
import type { BookCommand, Command, SettleCommand } from "../../shared/domain/commands.ts";
import type { Booking } from "../../shared/domain/bookings.ts";
import type { ChangeEventRequest, EventResult } from "../../shared/wire/rpc.ts";
import type { Change } from "../../shared/domain/changes.ts";
import type { Decision } from "../../shared/domain/outcomes.ts";
import type { Event, Snapshot } from "../../shared/domain/events.ts";

export type EventId = Event["id"];

/** An event as it is stored, but for its available tickets: those follow from its bookings. */
export interface StoredEvent extends Omit<Event, "availableTickets" | "salesEndAt"> {
  /** Null: sales end when the event starts. */
  readonly salesEndAt: string | null;
  readonly highestMaxPerUser: number;
}

/** A booking as it is stored: `expiresAt` stays when a hold is confirmed or cancelled. */
export interface StoredBooking extends Booking {
  readonly key: string;
  /** When a hold was confirmed; null for what was booked at once. */
  readonly confirmedAt: string | null;
}

export interface State {
  readonly events: ReadonlyMap<EventId, StoredEvent>;
  readonly bookings: ReadonlyMap<BookingId, StoredBooking>;
  readonly owns: (slot: Slot) => boolean;
}

export interface DecidedBatch {
  readonly state: State;
  /** One per command, in their order. */
  readonly decisions: readonly Decision[];
  /** Every event of the batch as it is after it. */
  readonly snapshots: readonly Snapshot[];
}

/** A state in the making, and which events it has changed. */
interface Draft {
  readonly events: Map<EventId, StoredEvent>;
  readonly bookings: Map<BookingId, StoredBooking>;
  readonly owns: (slot: Slot) => boolean;
  readonly changed: Set<EventId>;
  readonly now: string;
}

/**
 * Decides a batch at the time `now`: due holds of its events expire; then confirm and cancel; then book and hold, each
 * group in the given order (B8). `ids` are for the bookings it may make, by position among the booking commands.
 */
export function decideBatch(
  state: State,
  commands: readonly Command[],
  ids: readonly BookingId[],
  now: string,
): DecidedBatch {
  const draft = draftOf(state, now);
  const touched = new Set(commands.flatMap((command) => eventOf(state, command) ?? []));
  for (const eventId of touched) expireDue(draft, eventId);

  const decisions = new Map<Command, Decision>();
  for (const command of commands) if (isSettling(command)) decisions.set(command, settle(draft, command));
  const booking = commands.filter((command) => !isSettling(command));
  for (const [index, command] of booking.entries()) {
    const id = ids[index];
    if (id === undefined) throw new Error("every booking command has an id");
    decisions.set(command, book(draft, command, id));
  }

  const after = commit(draft);
  return {
    state: after,
    decisions: commands.flatMap((command) => decisions.get(command) ?? []),
    snapshots: [...touched].flatMap((eventId) => snapshotOf(after, eventId) ?? []),
  };
}

/** Frees the tickets of due holds of these events; what the sweeper does. */
export function sweep(state: State, eventIds: Iterable<EventId>, now: string): State {
  const draft = draftOf(state, now);
  for (const eventId of eventIds) expireDue(draft, eventId);
  return commit(draft);
}

/** Changes an event of the organizer. Its due holds expire even when the change is refused (B6). */
export function changeEvent(
  state: State,
  { id, organizer, changes }: ChangeEventRequest,
  now: string,
): { readonly state: State; readonly result: EventResult } {
  const before = state.events.get(id);
  if (!state.owns(slotOf(id))) return { state, result: { outcome: "wrong_shard" } };
  if (before === undefined) return { state, result: { outcome: "event_not_found" } };
  if (before.ownerId !== null && before.ownerId !== organizer)
    return { state, result: { outcome: "forbidden" } }; // S9

  const draft = draftOf(state, now);
  expireDue(draft, id);
  const event = { ...before, ...withoutUndefined(changes) };
  const answer = (outcome: "saved" | "below_sold" | "invalid_sales_window") => {
    const after = commit(draft);
    const snapshot = snapshotOf(after, id);
    if (snapshot === undefined) throw new Error("an event that was changed exists");
    return { state: after, result: { outcome, snapshot } };
  };
  if (event.totalTickets < soldOf(draft, id)) return answer("below_sold");
  if (isAfterOrAt(event.salesStartAt, salesEndOf(event))) return answer("invalid_sales_window");

  // What is as it was wanted already is no change, and raises no version (B9).
  if (!isDeepStrictEqual(event, before)) {
    const highestMaxPerUser = Math.max(before.highestMaxPerUser, event.maxPerUser);
    draft.events.set(id, { ...event, highestMaxPerUser });
    draft.changed.add(id);
  }
  return answer("saved");
}

/** Adds a new event. */
export function addEvent(state: State, event: StoredEvent): State {
  return { ...state, events: new Map(state.events).set(event.id, event) };
}

/** What a transaction did, as its entry in the log must say (J1); undefined when it changed nothing. */
export function changeBetween(before: State, after: State): Omit<Change, "position" | "at"> | undefined {
  const events = [...after.events.values()].filter((event) => event !== before.events.get(event.id));
  const bookings = [...after.bookings.values()].filter(
    (booking) => booking.status !== before.bookings.get(booking.id)?.status,
  );
  if (events.length === 0) return undefined;
  const isOther = (event: StoredEvent): boolean => {
    const { version: _, updatedAt: __, ...known } = before.events.get(event.id) ?? {};
    const { version: ___, updatedAt: ____, ...now } = event;
    return !isDeepStrictEqual(now, known);
  };
  const [other] = events.filter(isOther);
  return {
    events: events.map(({ id, version }) => ({ id, version, availableTickets: availableOf(after, id) })),
    event: (other && snapshotOf(after, other.id)?.event) ?? null,
    // What they are at this moment: no hold that was just made is due.
    bookings: bookings.map((booking) => seen(booking, booking.updatedAt)),
  };
}

/** Tickets are conserved (B2): available + held + confirmed = total, whatever happened before. */
export function availableOf(state: Pick<State, "events" | "bookings">, eventId: EventId): number {
  return (state.events.get(eventId)?.totalTickets ?? 0) - soldOf(state, eventId);
}

/** The tickets that a user has for an event (B3). */
export function heldBy(state: Pick<State, "bookings">, eventId: EventId, userId: string): number {
  return ticketsIn(liveBookings(state, eventId).filter((booking) => booking.userId === userId));
}

/** A booking as everybody sees it: a due hold is expired at that very moment (B6), and only holds show when they end. */
export function seen(stored: StoredBooking, now: string): Booking {
  const { key: _, confirmedAt: __, ...booking } = stored;
  const status = isDue(booking, now) ? "expired" : booking.status;
  const isHold = status === "held" || status === "expired";
  return { ...booking, status, expiresAt: isHold ? booking.expiresAt : null };
}

/** An event as everybody sees it; when it is sold out, with the moment at which a hold's tickets come back. */
export function snapshotOf(state: State, eventId: EventId): Snapshot | undefined {
  const stored = state.events.get(eventId);
  if (stored === undefined) return undefined;
  const { highestMaxPerUser: _, ...event } = stored;
  const availableTickets = availableOf(state, eventId);
  const holdEnds = liveBookings(state, eventId)
    .filter((booking) => booking.status === "held")
    .flatMap((booking) => booking.expiresAt ?? [])
    .sort();
  return {
    event: { ...event, salesEndAt: salesEndOf(stored), availableTickets },
    nextHoldExpiresAt: availableTickets === 0 ? (holdEnds[0] ?? null) : null,
  };
}

/** book and hold. The order of the refusals is part of the rules: clients see only the first that applies. */
function book(draft: Draft, command: BookCommand, id: BookingId): Decision {
  const { eventId, userId, quantity, key } = command;
  const event = draft.events.get(eventId);
  if (!draft.owns(slotOf(eventId))) return { outcome: "wrong_shard" }; // R3

  const first = [...draft.bookings.values()].find(
    (booking) => booking.eventId === eventId && booking.userId === userId && booking.key === key,
  );
  if (first !== undefined) return replay(draft, command, first, id); // B4, B5

  if (event === undefined) return { outcome: "event_not_found" };
  if (!areSalesOpen(event, draft.now)) return { outcome: "sales_not_open" }; // B10
  const available = availableOf(draft, eventId);
  if (available === 0) return { outcome: "sold_out" }; // B1
  const held = heldBy(draft, eventId, userId);
  if (held + quantity > event.maxPerUser) {
    return { outcome: "user_limit_exceeded", held, maxPerUser: event.maxPerUser }; // B3
  }
  // Whoever comes next and wants less may still get what is left (B8).
  if (quantity > available) return { outcome: "insufficient_tickets", availableTickets: available };

  const isHold = command.kind === "hold";
  const booking: StoredBooking = {
    id,
    eventId,
    userId,
    quantity,
    status: isHold ? "held" : "confirmed",
    expiresAt: isHold ? later(draft.now, command.ttlSeconds) : null,
    key,
    confirmedAt: null,
    createdAt: draft.now,
    updatedAt: draft.now,
  };
  save(draft, booking);
  return { outcome: isHold ? "held" : "booked", booking: seen(booking, draft.now) };
}

/** The same request again is answered with the first booking as it is now; another one under its key is refused (B5). */
function replay(draft: Draft, command: BookCommand, first: StoredBooking, id: BookingId): Decision {
  const holdEnd = command.kind === "hold" ? later(first.createdAt, command.ttlSeconds) : null;
  const isSame = first.quantity === command.quantity && first.expiresAt === holdEnd;
  if (!isSame) return { outcome: "idempotency_key_reused" };
  // The very id: a batch that is tried again after its commit got lost finds its own bookings (F1).
  const own = command.kind === "hold" ? "held" : "booked";
  return { outcome: first.id === id ? own : "replayed", booking: seen(first, draft.now) };
}

/** confirm and cancel: by the owner, or by an operator (B11). */
function settle(draft: Draft, command: SettleCommand): Decision {
  const booking = draft.bookings.get(command.bookingId);
  if (!draft.owns(slotOfBooking(command.bookingId))) return { outcome: "wrong_shard" }; // R3
  if (!isTheirs(command, booking)) return { outcome: "booking_not_found" };
  return command.kind === "cancel" ? cancel(draft, booking) : confirm(draft, booking);
}

/** Cancelling twice is cancelling once (B11). */
function cancel(draft: Draft, booking: StoredBooking): Decision {
  const cancelled = booking.status === "cancelled" ? booking : withStatus(draft, booking, "cancelled");
  return { outcome: "cancelled", booking: seen(cancelled, draft.now) };
}

/** Confirming twice is confirming once (B11); an expired hold must claim its tickets like a new booking (B7). */
function confirm(draft: Draft, booking: StoredBooking): Decision {
  switch (booking.status) {
    case "confirmed":
      return { outcome: "confirmed", booking: seen(booking, draft.now) };
    case "expired":
      if (!mayClaim(draft, booking)) return { outcome: "hold_expired" };
      break;
    case "cancelled":
      return { outcome: "hold_expired" };
    case "held":
      // A ticket is sold when it is confirmed (B10).
      if (!areSalesOpen(draft.events.get(booking.eventId), draft.now)) return { outcome: "sales_not_open" };
  }
  const confirmed = withStatus(draft, booking, "confirmed");
  return { outcome: "confirmed", booking: seen(confirmed, draft.now) };
}

/** Would these tickets be sold to this user now (B7)? */
function mayClaim(draft: Draft, { eventId, userId, quantity }: StoredBooking): boolean {
  const event = draft.events.get(eventId);
  return (
    event !== undefined &&
    areSalesOpen(event, draft.now) &&
    quantity <= availableOf(draft, eventId) &&
    heldBy(draft, eventId, userId) + quantity <= event.maxPerUser
  );
}

/** The first moment of the window is inside it, the last is not (B10). */
function areSalesOpen(event: StoredEvent | undefined, now: string): boolean {
  return (
    event?.status === "on_sale" &&
    (event.salesStartAt === null || event.salesStartAt <= now) &&
    salesEndOf(event) > now
  );
}

function salesEndOf({ startsAt, salesEndAt }: StoredEvent): string {
  return salesEndAt ?? startsAt;
}

/** Tickets of a due hold are free at that moment (B6). */
function expireDue(draft: Draft, eventId: EventId): void {
  for (const booking of liveBookings(draft, eventId)) {
    if (isDue(booking, draft.now)) withStatus(draft, booking, "expired");
  }
}

function isDue(booking: Booking, now: string): boolean {
  return booking.status === "held" && booking.expiresAt !== null && booking.expiresAt <= now;
}

function withStatus(draft: Draft, booking: StoredBooking, status: Booking["status"]): StoredBooking {
  const confirmedAt = status === "confirmed" ? draft.now : booking.confirmedAt;
  const saved = { ...booking, status, confirmedAt, updatedAt: draft.now };
  save(draft, saved);
  return saved;
}

function save(draft: Draft, booking: StoredBooking): void {
  draft.bookings.set(booking.id, booking);
  draft.changed.add(booking.eventId);
}

function draftOf({ events, bookings, owns }: State, now: string): Draft {
  return { events: new Map(events), bookings: new Map(bookings), owns, changed: new Set(), now };
}

/** However much a batch changed about an event, its version rises by one (B9). */
function commit({ events, bookings, owns, changed, now }: Draft): State {
  for (const eventId of changed) {
    const event = events.get(eventId);
    if (event !== undefined) events.set(eventId, { ...event, version: event.version + 1, updatedAt: now });
  }
  return { events, bookings, owns };
}

/** The event that a command touches. Who does not own a booking touches nothing (S3). */
function eventOf(state: State, command: Command): EventId | undefined {
  if (!isSettling(command)) return command.eventId;
  const booking = state.bookings.get(command.bookingId);
  return isTheirs(command, booking) ? booking.eventId : undefined;
}

function isTheirs({ userId }: SettleCommand, booking: StoredBooking | undefined): booking is StoredBooking {
  return booking !== undefined && (userId === null || userId === booking.userId);
}

function soldOf(state: Pick<State, "bookings">, eventId: EventId): number {
  return ticketsIn(liveBookings(state, eventId));
}

/** Held and confirmed bookings are those that have tickets. */
function liveBookings({ bookings }: Pick<State, "bookings">, eventId: EventId): StoredBooking[] {
  return [...bookings.values()].filter(
    ({ eventId: id, status }) => id === eventId && (status === "held" || status === "confirmed"),
  );
}

function ticketsIn(bookings: readonly StoredBooking[]): number {
  return bookings.reduce((sum, booking) => sum + booking.quantity, 0);
}

function isSettling(command: Command): command is SettleCommand {
  return command.kind === "confirm" || command.kind === "cancel";
}

function isAfterOrAt(start: string | null, end: string): boolean {
  return start !== null && start >= end;
}

function later(time: string, seconds: number): string {
  return new Date(Date.parse(time) + seconds * 1000).toISOString();
}

/** A change that is absent changes nothing; null is a value. */
function withoutUndefined(changes: ChangeEventRequest["changes"]): Partial<StoredEvent> {
  return Object.fromEntries(Object.entries(changes).filter(([, value]) => value !== undefined));
}
