/**
 * Random stories of a shard, told to a real BookingStore and to the model at once, which must agree on every answer and,
 * in the end, on every stored row and on what a follower of the log has heard.
 *
 * A generated story names events, users and bookings by small numbers, and only `tell` turns those into ids. So a story
 * means the same whenever it is told, and fast-check can shrink it. Every story has fresh events: one database
 * serves thousands of them.
 */
import { bookCommand, ORGANIZER, settleCommand } from "../support/commands.ts";
import fc from "fast-check";
import { oneOf } from "../support/arbitraries.ts";
import { openDatabase } from "../support/databases.ts";
import { expect } from "vitest";
import { BookingStore } from "../../shard-node/store/booking-store.ts";
import { newBookingId, newEventId, slotOfBooking, timeOf, type UserId } from "../../shared/domain/ids.ts";
import type { Database } from "../../shared/database/database.ts";
import { type Slot, SLOT_COUNT, slotOf } from "../../shared/domain/slots.ts";
import type { ChangeEventRequest } from "../../shared/wire/rpc.ts";
import type { Change } from "../../shared/domain/changes.ts";
import type { Command } from "../../shared/domain/commands.ts";
import * as model from "./model.ts";

/** The slots that the shard of the stories owns: three in four. */
const OWNED_SLOTS = (SLOT_COUNT / 4) * 3;
const owns = (slot: Slot): boolean => slot < OWNED_SLOTS;

/** All stories begin at this moment; the time is given to every call. */
const BEGIN_MS = Date.parse("2031-05-01T10:00:00.000Z");
/** An event's number beyond those that exist: one that was never created, and one in a slot of another shard. */
const MISSING_EVENT = 4;
const FOREIGN_EVENT = 5;

type WhoSettles = "owner" | "stranger" | "operator";

interface BookLine {
  readonly kind: "book" | "hold";
  readonly event: number;
  readonly user: number;
  readonly quantity: number;
  readonly key: number;
  readonly ttlSeconds: number;
}

interface SettleLine {
  readonly kind: "confirm" | "cancel";
  /** Counts bookings from the newest. */
  readonly booking: number | "unknown" | "foreign";
  readonly by: WhoSettles;
}

type Line = BookLine | SettleLine;

interface EventLine {
  readonly totalTickets: number;
  readonly maxPerUser: number;
  /** Seconds from the beginning of the story. */
  readonly sales: readonly [start: number | null, end: number | null];
  readonly startsAfter: number;
}

/** What happens, `afterMs` after what happened before. */
type Step = { readonly afterMs: number } & (
  | { readonly kind: "batch"; readonly lines: readonly (BookLine | SettleLine)[]; readonly tries: 1 | 2 }
  | { readonly kind: "sweep"; readonly events: readonly number[] }
  | { readonly kind: "change"; readonly event: number; readonly by: string; readonly changes: Changes }
);

interface Changes {
  readonly totalTickets?: number | undefined;
  readonly maxPerUser?: number | undefined;
  readonly status?: "on_sale" | "paused" | "closed" | undefined;
  readonly intake?: "direct" | "queue" | undefined;
  readonly venue?: string | null | undefined;
  readonly sales?: EventLine["sales"] | undefined;
  readonly startsAfter?: number | undefined;
}

export interface Story {
  readonly events: readonly EventLine[];
  readonly steps: readonly Step[];
}

/** Few choices of everything, so that limits bite, keys are used again and holds come due on the very millisecond. */
const TTLS = [1, 2, 60, 3600];
const PAUSES_MS = [0, 0, 0, 1, 999, 1_000, 2_000, 59_000, 60_000, 3_600_000];

const event = oneOf<number>([20, fc.nat({ max: 3 })], [1, fc.constantFrom(MISSING_EVENT, FOREIGN_EVENT)]);
const bookLine: fc.Arbitrary<BookLine> = fc.record({
  kind: fc.constantFrom("book", "hold"),
  event,
  user: fc.nat({ max: 4 }),
  quantity: oneOf<number>([3, fc.constant(1)], [2, fc.integer({ min: 1, max: 4 })]),
  key: fc.nat({ max: 3 }),
  ttlSeconds: fc.constantFrom(...TTLS),
});
/** Many users, each once, want the same event: what a shard meets in a rush, and decides in bulk. */
const rush: fc.Arbitrary<readonly BookLine[]> = fc
  .record({
    event: fc.nat({ max: 3 }),
    wants: fc.uniqueArray(fc.tuple(fc.nat({ max: 13 }), bookLine), {
      selector: ([user]) => user,
      minLength: 8,
      maxLength: 14,
    }),
  })
  .map(({ event, wants }) => wants.map(([user, line]) => ({ ...line, event, user })));
const settleLine: fc.Arbitrary<SettleLine> = fc.record({
  kind: fc.constantFrom("confirm", "cancel"),
  booking: oneOf<SettleLine["booking"]>([15, fc.nat({ max: 7 })], [1, fc.constantFrom("unknown", "foreign")]),
  by: oneOf<WhoSettles>([5, fc.constant("owner")], [1, fc.constantFrom("stranger", "operator")]),
});
const sales = oneOf<EventLine["sales"]>(
  [3, fc.constant([null, null])],
  [1, fc.tuple(fc.constantFrom(null, 0, 60), fc.constantFrom(null, 1, 60, 120, 3600))],
);
/** Mostly after the end of the story. */
const startsAfter = fc.oneof(
  { weight: 3, arbitrary: fc.constant(10_000_000) },
  { weight: 1, arbitrary: fc.constantFrom(60, 120, 7_200) },
);
/** Scarce mostly, and sometimes enough for all who ask at once. */
const totalTickets = oneOf([3, fc.integer({ min: 1, max: 12 })], [1, fc.integer({ min: 30, max: 90 })]);
const maxPerUser = fc.integer({ min: 1, max: 5 });
const afterMs = fc.constantFrom(...PAUSES_MS);
const step = oneOf<Step>(
  [
    10,
    fc.record({
      kind: fc.constant("batch" as const),
      afterMs,
      lines: oneOf<readonly Line[]>(
        [3, fc.array(oneOf<Line>([3, bookLine], [2, settleLine]), { minLength: 1, maxLength: 10 })],
        [1, rush],
      ),
      tries: oneOf<1 | 2>([9, fc.constant(1)], [1, fc.constant(2)]),
    }),
  ],
  [
    1,
    fc.record({
      kind: fc.constant("sweep" as const),
      afterMs,
      events: fc.uniqueArray(event, { minLength: 1, maxLength: 4 }),
    }),
  ],
  [
    2,
    fc.record({
      kind: fc.constant("change" as const),
      afterMs,
      event,
      by: fc.constantFrom(ORGANIZER, ORGANIZER, ORGANIZER, ORGANIZER, "another-organizer"),
      changes: fc.record(
        {
          totalTickets,
          maxPerUser,
          // Mostly back on sale: a story in which nothing is sold says little.
          status: fc.constantFrom("on_sale", "on_sale", "paused", "closed"),
          intake: fc.constantFrom("direct", "queue"),
          venue: fc.constantFrom(null, "Opera"),
          sales,
          startsAfter,
        },
        { requiredKeys: [] },
      ),
    }),
  ],
);

export const story: fc.Arbitrary<Story> = fc.record({
  events: fc.array(fc.record({ totalTickets, maxPerUser, sales, startsAfter }), {
    minLength: 1,
    maxLength: 4,
  }),
  steps: fc.array(step, { minLength: 1, maxLength: 14 }),
});

/** A shard's database whose owned slots are those of the stories. */
export async function openShard(url: string): Promise<Database> {
  const database = openDatabase(url);
  await database.query(
    {
      name: "own-slots",
      text: "select acquire_slots(array(select generate_series(0, $1 - 1))::smallint[], 1)",
    },
    [OWNED_SLOTS],
  );
  return database;
}

/** Tells a story to the database and to the model, and compares. Returns the outcomes that occurred. */
export async function tell(database: Database, { events, steps }: Story): Promise<ReadonlySet<string>> {
  let nowMs = BEGIN_MS;
  const now = () => new Date(nowMs).toISOString();
  const store = new BookingStore(database, () => nowMs);
  const names = new Names(events.length);
  let state: model.State = { events: new Map(), bookings: new Map(), owns };
  const outcomes = new Set<string>();
  const logBegins = (await readLog(store, null)).position;
  const happened: LoggedChange[] = [];
  const become = (after: model.State, at = now()): void => {
    const change = model.changeBetween(state, after);
    if (change !== undefined) happened.push(inOrderOfIds({ at, ...change }));
    state = after;
  };

  for (const [index, line] of events.entries()) {
    const created = createdEvent(names.event(index), line);
    const result = await store.createEvent({ ...created, ownerId: ORGANIZER });
    become(model.addEvent(state, created), created.createdAt);
    expect(result).toEqual({ outcome: "saved", snapshot: model.snapshotOf(state, created.id) });
  }

  for (const step of steps) {
    nowMs += step.afterMs;
    switch (step.kind) {
      case "batch": {
        const commands = names.commands(step.lines, state);
        const ids = store.freshIdsFor(commands);
        for (let attempt = 1; attempt <= step.tries; attempt += 1) {
          const expected = model.decideBatch(state, commands, ids, now());
          const answered = await store.decide(commands, ids, { at: new Date(nowMs) });
          expect(answered.decisions).toEqual(expected.decisions);
          expect(byEvent(answered.snapshots)).toEqual(byEvent(expected.snapshots));
          become(expected.state);
          for (const { outcome } of expected.decisions) outcomes.add(outcome);
        }
        break;
      }
      case "sweep": {
        const eventIds = step.events.map((number) => names.event(number));
        await sweepStored(database, eventIds, nowMs);
        become(model.sweep(state, eventIds, now()));
        break;
      }
      case "change": {
        const request = changeRequest(names.event(step.event), step.by as UserId, step.changes);
        const expected = model.changeEvent(state, request, now());
        expect(await store.changeEvent(request, { at: new Date(nowMs) })).toEqual(expected.result);
        become(expected.state);
        outcomes.add(expected.result.outcome);
        break;
      }
    }
    expectRulesKept(state);
  }

  const bookingIds = [...state.bookings.keys()];
  expect(await store.readBookings(bookingIds, new Date(nowMs))).toEqual(
    [...state.bookings.values()].map((booking) => ({
      outcome: "found",
      value: model.seen(booking, now()),
    })),
  );
  expect(await storedRows(database, [...state.events.keys()])).toEqual(expectedRows(state));
  expect(await followedFrom(store, logBegins)).toEqual(happened);
  return outcomes;
}

type LoggedChange = Omit<Change, "position">;

/** Follows the log to its end, in small steps. */
async function followedFrom(store: BookingStore, begin: number): Promise<LoggedChange[]> {
  const followed: LoggedChange[] = [];
  for (let position = begin; ;) {
    const { changes, position: last } = await readLog(store, position);
    if (changes.length === 0) return followed;
    for (const { position: next, ...change } of changes) {
      expect(next, "J2: positions rise").toBeGreaterThan(position);
      position = next;
      followed.push(inOrderOfIds(change));
    }
    expect(last).toBe(position);
  }
}

async function readLog(store: BookingStore, after: number | null) {
  const read = await store.readChanges(after, 5);
  if (read.dropped) throw new Error("nothing was dropped");
  return read;
}

function inOrderOfIds({ events, bookings, ...change }: LoggedChange): LoggedChange {
  const byId = <Item extends { id: string }>(items: readonly Item[]) =>
    items.toSorted((a, b) => (a.id < b.id ? -1 : 1));
  return { ...change, events: byId(events), bookings: byId(bookings) };
}

/** What must hold in every state, said without the rules that lead there. */
function expectRulesKept(state: model.State): void {
  for (const { id, totalTickets, highestMaxPerUser } of state.events.values()) {
    const available = model.availableOf(state, id);
    expect(available, "B1: never oversold").toBeGreaterThanOrEqual(0);
    expect(available, "B1: never more than there are").toBeLessThanOrEqual(totalTickets);
    for (const { userId } of state.bookings.values()) {
      expect(model.heldBy(state, id, userId), "B3: the limit of a user").toBeLessThanOrEqual(
        highestMaxPerUser,
      );
    }
  }
  const keys = [...state.bookings.values()].map(({ eventId, userId, key }) => `${eventId} ${userId} ${key}`);
  expect(new Set(keys).size, "B4: one booking per event, user and key").toBe(keys.length);
}

/** Turns the numbers of a story into ids. */
class Names {
  readonly #events: readonly model.EventId[];
  readonly #existing: number;

  constructor(existing: number) {
    this.#existing = existing;
    this.#events = Array.from({ length: FOREIGN_EVENT + 1 }, (_, number) =>
      newEventIdWhere((slot) => owns(slot) === (number !== FOREIGN_EVENT)),
    );
  }

  event(number: number): model.EventId {
    const id = this.#events[number < MISSING_EVENT ? number % this.#existing : number];
    if (id === undefined) throw new Error(`a story has no event ${number}`);
    return id;
  }

  /** The commands of a batch. */
  commands(lines: readonly (BookLine | SettleLine)[], state: model.State): Command[] {
    return lines.map((line) =>
      "booking" in line ? this.#settling(line, state) : this.#booking(line, this.event(line.event)),
    );
  }

  #booking(line: BookLine, eventId: model.EventId): Command {
    const { kind, user, quantity, ttlSeconds } = line;
    const command = bookCommand(eventId, `user-${user}`, quantity, `key-${line.key}`);
    return kind === "book" ? command : { ...command, kind, ttlSeconds };
  }

  #settling({ kind, booking, by }: SettleLine, state: model.State): Command {
    const known = [...state.bookings.values()].reverse();
    const named = typeof booking === "number" ? known[booking % known.length] : undefined;
    const slot = slotOf(this.event(booking === "foreign" ? FOREIGN_EVENT : MISSING_EVENT));
    const owner = named?.userId ?? ("user-0" as UserId);
    const userId = { owner, stranger: "stranger" as UserId, operator: null }[by];
    return settleCommand(kind, named?.id ?? newBookingId(slot, BEGIN_MS), userId);
  }
}

function newEventIdWhere(fits: (slot: Slot) => boolean): model.EventId {
  for (;;) {
    const id = newEventId(BEGIN_MS - 60_000);
    if (fits(slotOf(id))) return id;
  }
}

function createdEvent(
  id: model.EventId,
  { totalTickets, maxPerUser, sales, startsAfter }: EventLine,
): model.StoredEvent {
  const createdAt = new Date(timeOf(id)).toISOString();
  return {
    id,
    ownerId: ORGANIZER,
    name: "Concert",
    venue: null,
    startsAt: timeAfter(startsAfter),
    ...salesWindow(sales, startsAfter),
    status: "on_sale",
    intake: "direct",
    totalTickets,
    maxPerUser,
    highestMaxPerUser: maxPerUser,
    version: 1,
    createdAt,
    updatedAt: createdAt,
  };
}

/** The window of a new event is in order; that a wrong one is refused is for changes to find. */
function salesWindow(
  [start, end]: EventLine["sales"],
  startsAfter: number,
): { salesStartAt: string | null; salesEndAt: string | null } {
  const inOrder = start === null || start < (end ?? startsAfter);
  return { salesStartAt: inOrder ? timeAfter(start) : null, salesEndAt: timeAfter(end) };
}

function changeRequest(
  id: model.EventId,
  organizer: UserId,
  { sales, startsAfter, ...changes }: Changes,
): ChangeEventRequest {
  const window =
    sales === undefined ? {} : { salesStartAt: timeAfter(sales[0]), salesEndAt: timeAfter(sales[1]) };
  const start = startsAfter === undefined ? {} : { startsAt: timeAfter(startsAfter) };
  return { id, organizer, changes: { ...changes, ...window, ...start } };
}

function timeAfter<Seconds extends number | null>(seconds: Seconds): Seconds extends null ? null : string;
function timeAfter(seconds: number | null): string | null {
  return seconds === null ? null : new Date(BEGIN_MS + seconds * 1000).toISOString();
}

/** The sweeper's batch: no command, only events; at a time that the test chooses. */
async function sweepStored(database: Database, eventIds: model.EventId[], nowMs: number): Promise<void> {
  await database.query(
    {
      name: "sweep",
      text: `
        select decide_batch($1, $2, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', $3)`,
    },
    [eventIds, eventIds.map(slotOf), new Date(nowMs)],
  );
}

function byEvent<S extends { event: { id: string } }>(snapshots: readonly S[]): Record<string, S> {
  expect(new Set(snapshots.map(({ event }) => event.id)).size).toBe(snapshots.length);
  return Object.fromEntries(snapshots.map((snapshot) => [snapshot.event.id, snapshot]));
}

type Row = Readonly<Record<string, unknown>>;
interface Rows {
  readonly events: Readonly<Record<string, Row>>;
  readonly bookings: Readonly<Record<string, Row>>;
}

async function storedRows(database: Database, eventIds: readonly model.EventId[]): Promise<Rows> {
  const read = async (table: "events" | "bookings", column: "id" | "event_id") => {
    const rows = await database.query<{ row: Row }>(
      {
        name: `rows-of-${table}`,
        text: `select to_json(t) as row from ${table} t where ${column} = any ($1::uuid[])`,
      },
      [eventIds],
    );
    return Object.fromEntries(rows.map(({ row }) => [String(row["id"]), withPlainTimes(row)]));
  };
  return { events: await read("events", "id"), bookings: await read("bookings", "event_id") };
}

function withPlainTimes(row: Row): Row {
  const plain = (name: string, value: unknown) =>
    name.endsWith("_at") && typeof value === "string" ? new Date(value).toISOString() : value;
  return Object.fromEntries(Object.entries(row).map(([name, value]) => [name, plain(name, value)]));
}

/** Every column of every row. */
function expectedRows(state: model.State): Rows {
  const events = [...state.events.values()].map((event) => ({
    id: event.id,
    slot: slotOf(event.id),
    owner_id: event.ownerId,
    name: event.name,
    venue: event.venue,
    starts_at: event.startsAt,
    sales_start_at: event.salesStartAt,
    sales_end_at: event.salesEndAt,
    total_tickets: event.totalTickets,
    available_tickets: model.availableOf(state, event.id),
    max_per_user: event.maxPerUser,
    highest_max_per_user: event.highestMaxPerUser,
    status: event.status,
    intake: event.intake,
    version: event.version,
    created_at: event.createdAt,
    updated_at: event.updatedAt,
  }));
  const bookings = [...state.bookings.values()].map((booking) => ({
    id: booking.id,
    slot: slotOfBooking(booking.id),
    event_id: booking.eventId,
    user_id: booking.userId,
    quantity: booking.quantity,
    status: booking.status,
    expires_at: booking.expiresAt,
    idempotency_key: booking.key,
    confirmed_at: booking.confirmedAt,
    created_at: booking.createdAt,
    updated_at: booking.updatedAt,
  }));
  return { events: rowsById(events), bookings: rowsById(bookings) };
}

function rowsById(rows: readonly ({ readonly id: string } & Row)[]): Record<string, Row> {
  return Object.fromEntries(rows.map((row) => [row.id, row]));
}
