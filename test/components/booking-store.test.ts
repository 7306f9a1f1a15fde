/**
 * What random stories cannot show: batches that meet each other, and what the database itself refuses. A connection of
 * the test holds a lock until the batches are seen to wait for it, so every order here is forced, never hoped for.
 */
import { afterAll, beforeAll, expect, test } from "vitest";
import { BookingStore } from "../../shard-node/store/booking-store.ts";
import {
  type EventId,
  type IdempotencyKey,
  newBookingId,
  newEventId,
  type UserId,
} from "../../shared/domain/ids.ts";
import { Refusal } from "../../shared/database/connection.ts";
import { Database } from "../../shared/database/database.ts";
import { slotOf } from "../../shared/domain/slots.ts";
import type { BookCommand, Command } from "../../shared/domain/commands.ts";
import type { Booking } from "../../shared/domain/bookings.ts";
import type { ChangeEventRequest, CreateEventRequest } from "../../shared/wire/rpc.ts";
import type { Decision, Failure } from "../../shared/domain/outcomes.ts";
import { tally } from "../support/running-cluster.ts";
import {
  connectTo,
  createDatabase,
  lockEvent,
  openDatabase,
  type TestDatabase,
} from "../support/databases.ts";
import { bookCommand, ORGANIZER, settleCommand } from "../support/commands.ts";
import { eventually } from "../support/eventually.ts";

let created: TestDatabase;
let database: Database;
let store: BookingStore;

beforeAll(async () => {
  created = await createDatabase("shard");
  database = openDatabase(created.url, { connectionsMax: 4 });
  store = new BookingStore(database, () => Date.now());
});
afterAll(async () => {
  await database.close();
  await created[Symbol.asyncDispose]();
});

const options = () => ({
  url: created.url,
  applicationName: "booking-store",
  connectionsMax: 4,
  waitersMax: 10,
  connectTimeoutMs: 10_000,
  statementTimeoutMs: 30_000,
  lockTimeoutMs: 30_000,
});

test("B1 B2: two batches that reach the last ticket together sell it once", async () => {
  const id = await givenEvent({ totalTickets: 1 });
  using blocker = await lockEvent(created.url, id);

  const both = [decide([bookCommand(id, "first")]), decide([bookCommand(id, "second")])];
  await untilBlocked("both batches wait for the event", 2);
  await blocker.run("rollback");

  const outcomes = (await Promise.all(both)).flatMap((decisions) => decisions.map(({ outcome }) => outcome));
  expect(tally(outcomes)).toEqual({ booked: 1, sold_out: 1 });
  expect(await ticketsOf(id)).toEqual({ available: 0, sold: 1, version: 2 });
});

test("B3: two batches that carry one user's commands do not sell over the limit", async () => {
  const id = await givenEvent({ totalTickets: 10, maxPerUser: 2 });
  using blocker = await lockEvent(created.url, id);

  const both = [decide([bookCommand(id, "greedy", 2)]), decide([bookCommand(id, "greedy", 2)])];
  await untilBlocked("both batches wait for the event", 2);
  await blocker.run("rollback");

  const decisions = (await Promise.all(both)).flat();
  expect(tally(decisions.map(({ outcome }) => outcome))).toEqual({ booked: 1, user_limit_exceeded: 1 });
  expect(await ticketsOf(id)).toEqual({ available: 8, sold: 2, version: 2 });
});

test("B1: batches that name the same events in opposite orders do not deadlock", async () => {
  const ids = [await givenEvent({ totalTickets: 9 }), await givenEvent({ totalTickets: 9 })];
  using blocker = connectTo(created.url);
  await blocker.run("begin");
  await blocker.run("select from events where id = any ($1) order by id for update", [ids]);

  const both = [
    decide(ids.map((id) => bookCommand(id, "first"))),
    decide(ids.toReversed().map((id) => bookCommand(id, "second"))),
  ];
  await untilBlocked("both batches wait for an event", 2);
  await blocker.run("rollback");

  const outcomes = (await Promise.all(both)).flatMap((decisions) => decisions.map(({ outcome }) => outcome));
  expect(tally(outcomes)).toEqual({ booked: 4 });
});

test("B3 B4 B5: commands of one user in one batch see each other's tickets and keys", async () => {
  const id = await givenEvent({ totalTickets: 10, maxPerUser: 3 });

  const [first, again, other, third, surplus] = await decide([
    bookCommand(id, "greedy", 1, "a"),
    bookCommand(id, "greedy", 1, "a"),
    bookCommand(id, "greedy", 2, "a"),
    bookCommand(id, "greedy", 2, "b"),
    bookCommand(id, "greedy", 1, "c"),
  ]);

  expect(first).toMatchObject({ outcome: "booked" });
  expect(again).toEqual({ outcome: "replayed", booking: bookingIn(first) });
  expect(other).toEqual({ outcome: "idempotency_key_reused" });
  expect(third).toMatchObject({ outcome: "booked" });
  expect(surplus).toEqual({ outcome: "user_limit_exceeded", maxPerUser: 3, held: 3 });
  expect(await ticketsOf(id)).toEqual({ available: 7, sold: 3, version: 2 });
});

test("L4: an event that somebody else has locked leaves the batch, and only its commands are told", async () => {
  const [locked, free] = [await givenEvent({ totalTickets: 9 }), await givenEvent({ totalTickets: 9 })];
  const [held] = await decide([hold(locked, "holder", 60)]);
  using blocker = await lockEvent(created.url, locked);
  const commands = [bookCommand(locked, "ada"), bookCommand(free, "ada"), confirm(bookingIn(held))];

  for (const options of [{ waits: false }, { doubted: [locked] }]) {
    const batch = await store.decide(commands, store.freshIdsFor(commands), options);
    expect(batch.decisions.map(({ outcome }) => outcome)).toEqual([
      "overloaded",
      expect.anything(),
      "overloaded",
    ]);
    expect(batch.lockedEvents).toEqual([locked]);
    expect(batch.snapshots.map(({ event }) => event.id)).toEqual([free]);
  }
  const impatient = store.decide(commands, store.freshIdsFor(commands), { lockWaitMs: 20 });
  await expect(impatient).rejects.toMatchObject({ sqlState: "55P03" });
  await blocker.run("rollback");

  expect((await decide(commands)).map(({ outcome }) => outcome)).toEqual(["booked", "replayed", "confirmed"]);
  expect(await ticketsOf(locked)).toEqual({ available: 7, sold: 2, version: 3 });
});

test("B3 B5: among many who are new, users who have bookings already are judged", async () => {
  const id = await givenEvent({ totalTickets: 100, maxPerUser: 2 });
  const key = "the-key" as IdempotencyKey;
  await decide([{ ...bookCommand(id, "again"), key }, bookCommand(id, "full", 2), bookCommand(id, "half")]);

  const news = Array.from({ length: 20 }, (_, number) => bookCommand(id, `new ${number}`));
  const [again, full, half, ...booked] = await decide([
    { ...bookCommand(id, "again"), key },
    bookCommand(id, "full"),
    bookCommand(id, "half"),
    ...news,
  ]);

  expect(again?.outcome).toBe("replayed");
  expect(full).toEqual({ outcome: "user_limit_exceeded", held: 2, maxPerUser: 2 });
  expect([half, ...booked].map((decision) => decision?.outcome)).toEqual(Array(21).fill("booked"));
  expect(await ticketsOf(id)).toEqual({ available: 75, sold: 25, version: 3 });
});

test("B1 B8: when many want more than is left, they are served in order, and who wants less is served later", async () => {
  const id = await givenEvent({ totalTickets: 9, maxPerUser: 4 });
  const wants = [4, 4, 2, 1, 1, ...Array<number>(15).fill(1)];

  const decisions = await decide(wants.map((quantity, user) => bookCommand(id, `user ${user}`, quantity)));

  const outcomes = decisions.map(({ outcome }) => outcome);
  expect(outcomes.slice(0, 5)).toEqual(["booked", "booked", "insufficient_tickets", "booked", "sold_out"]);
  expect(tally(outcomes)).toEqual({ booked: 3, insufficient_tickets: 1, sold_out: 16 });
  expect(await ticketsOf(id)).toEqual({ available: 0, sold: 9, version: 2 });
});

test("B4: the database itself refuses a second booking under one key", async () => {
  const id = await givenEvent({ totalTickets: 10 });
  await decide([{ ...bookCommand(id, "user"), key: "the-key" as IdempotencyKey }]);

  const copied = database.query({
    name: "copy-booking",
    text: `
      insert into bookings
        (id, slot, event_id, user_id, quantity, status, idempotency_key, created_at, updated_at)
      select overlay(id::text placing 'ffffffff' from 29)::uuid, slot, event_id, user_id, quantity, status,
             idempotency_key, created_at, updated_at
      from bookings`,
  });

  await expect(copied).rejects.toMatchObject({ kind: "refused", sqlState: "23505" });
});

test("B5: a replay answers the first booking, other content is refused, and neither takes a ticket", async () => {
  const id = await givenEvent({ totalTickets: 5 });
  const key = "the-key" as IdempotencyKey;
  const [first] = await decide([{ ...bookCommand(id, "user"), key }]);

  const [again] = await decide([{ ...bookCommand(id, "user"), key }]);
  const [other] = await decide([{ ...bookCommand(id, "user", 2), key }]);

  expect(again).toEqual({ outcome: "replayed", booking: bookingIn(first) });
  expect(other).toEqual({ outcome: "idempotency_key_reused" });
  expect(await ticketsOf(id)).toEqual({ available: 4, sold: 1, version: 2 });
});

test("B6: the tickets of a due hold are free at that very moment, and not a millisecond before", async () => {
  const id = await givenEvent({ totalTickets: 1 });
  const [held] = await decide([hold(id, "slow", 60)], at(0));

  const [before] = await decide([bookCommand(id, "quick")], at(59.999));
  const [then] = await decide([bookCommand(id, "quick")], at(60));

  expect([held, before, then]).toMatchObject([
    { outcome: "held" },
    { outcome: "sold_out" },
    { outcome: "booked" },
  ]);
});

test("B7: an expired hold is confirmed only by claiming its tickets again", async () => {
  const id = await givenEvent({ totalTickets: 2 });
  const [early, late] = await decide([hold(id, "early", 60), hold(id, "late", 60)], at(0));
  await decide([bookCommand(id, "third")], at(60));

  const confirmed = await decide([confirm(bookingIn(early)), confirm(bookingIn(late))], at(61));

  expect(confirmed).toMatchObject([{ outcome: "confirmed" }, { outcome: "hold_expired" }]);
  expect(await ticketsOf(id)).toMatchObject({ available: 0, sold: 2 });
});

test("B7: an expired hold is not confirmed over the user's limit, nor while sales are paused", async () => {
  const id = await givenEvent({ totalTickets: 10, maxPerUser: 2 });
  const [held] = await decide([hold(id, "user", 60)], at(0));
  const [instead] = await decide([bookCommand(id, "user", 2)], at(60));

  const [overLimit] = await decide([confirm(bookingIn(held))], at(61));
  await decide([{ ...confirm(bookingIn(instead)), kind: "cancel" }], at(62));
  await store.changeEvent({ id, organizer: ORGANIZER, changes: { status: "paused" } }, { at: at(63) });
  const [whilePaused] = await decide([confirm(bookingIn(held))], at(64));
  await store.changeEvent({ id, organizer: ORGANIZER, changes: { status: "on_sale" } }, { at: at(65) });
  const [onSale] = await decide([confirm(bookingIn(held))], at(66));

  expect([overLimit, whilePaused, onSale].map((decision) => decision?.outcome)).toEqual([
    "hold_expired",
    "hold_expired",
    "confirmed",
  ]);
});

test.each(["paused", "closed", "over"] as const)(
  "B10: a hold of an event that is %s is not confirmed, and can be cancelled",
  async (state) => {
    const id = await givenEvent({ totalTickets: 5 });
    const change = async (changes: ChangeEventRequest["changes"], seconds: number) =>
      store.changeEvent({ id, organizer: ORGANIZER, changes }, { at: at(seconds) });
    const [first, second] = await decide([hold(id, "a", 600), hold(id, "b", 600)], at(0));

    const startsAt = at(60).toISOString();
    await change(state === "over" ? { startsAt } : { status: state }, 30);
    expect(await decide([confirm(bookingIn(first))], at(60))).toEqual([{ outcome: "sales_not_open" }]);
    const [cancelled] = await decide([{ ...confirm(bookingIn(second)), kind: "cancel" }], at(61));
    await change(state === "over" ? { startsAt: at(900).toISOString() } : { status: "on_sale" }, 62);
    const [confirmed] = await decide([confirm(bookingIn(first))], at(63));

    expect([cancelled?.outcome, confirmed?.outcome]).toEqual(["cancelled", "confirmed"]);
    expect(await ticketsOf(id)).toMatchObject({ available: 4, sold: 1 });
  },
);

test("B10: without an end of their own sales end when the event starts, wherever that is moved", async () => {
  const id = await givenEvent({ totalTickets: 9 });
  const change = async (changes: ChangeEventRequest["changes"]) => {
    const result = await store.changeEvent({ id, organizer: ORGANIZER, changes }, { at: at(0) });
    return "snapshot" in result ? [result.outcome, result.snapshot.event.salesEndAt] : [result.outcome];
  };
  const sold = async (user: string, seconds: number) =>
    (await decide([bookCommand(id, user)], at(seconds)))[0]?.outcome;
  const [early, late, later] = [60, 120, 180].map((seconds) => at(seconds).toISOString());

  expect(await change({ startsAt: early })).toEqual(["saved", early]);
  expect([await sold("a", 59.999), await sold("b", 60)]).toEqual(["booked", "sales_not_open"]);
  expect(await change({ startsAt: late })).toEqual(["saved", late]);
  expect([await sold("c", 119.999), await sold("d", 120)]).toEqual(["booked", "sales_not_open"]);
  // An end that was given stays, also after the start.
  expect(await change({ salesEndAt: later })).toEqual(["saved", later]);
  expect(await change({ startsAt: early })).toEqual(["saved", later]);
  expect([await sold("e", 179.999), await sold("f", 180)]).toEqual(["booked", "sales_not_open"]);
  expect(await change({ salesEndAt: null })).toEqual(["saved", early]);
  expect(await change({ salesStartAt: early })).toEqual(["invalid_sales_window", early]);
  const never = await givenEventWith({ totalTickets: 1, salesStartAt: "2040-01-01T20:00:00Z" });
  expect(never.result).toEqual({ outcome: "invalid_sales_window" });
});

test("B6: whether a hold is due says the clock of the database, not that of the node", async () => {
  const id = await givenEvent({ totalTickets: 1 });
  const ahead = new BookingStore(database, () => Date.now() + 3_600_000);
  const [held] = await decide([hold(id, "a", 600)]);

  expect(await ahead.readBookings([bookingIn(held).id])).toEqual([
    { outcome: "found", value: bookingIn(held) },
  ]);
});

test("S3: confirming or cancelling somebody else's booking waits for no lock, as with a booking that does not exist", async () => {
  const id = await givenEvent({ totalTickets: 2 });
  const [held] = await decide([hold(id, "owner", 600)]);
  const booking = bookingIn(held);
  using blocker = await lockEvent(created.url, id);
  const absent = { ...booking, id: newBookingId(slotOf(id), Date.now()) };
  const impatient = new Database({ ...options(), lockTimeoutMs: 500 });
  const refused = async (target: Booking, kind: "confirm" | "cancel") => {
    const batch = [settleCommand(kind, target.id, "stranger" as UserId)];
    return (await new BookingStore(impatient, Date.now).decide(batch, [])).decisions[0]?.outcome;
  };

  // A batch that waited would fail.
  try {
    for (const target of [booking, absent])
      for (const kind of ["confirm", "cancel"] as const)
        expect(await refused(target, kind)).toBe("booking_not_found");
  } finally {
    await impatient.close();
  }
  const own = decide([confirm(booking)]);
  await untilBlocked("the owner waits for the event", 1);
  await blocker.run("rollback");
  expect(await own).toMatchObject([{ outcome: "confirmed" }]);
});

test("B8: who wants more than is left is refused, and the next who wants less is served", async () => {
  const id = await givenEvent({ totalTickets: 3 });

  const decisions = await decide([
    bookCommand(id, "a", 2),
    bookCommand(id, "b", 2),
    bookCommand(id, "c"),
    bookCommand(id, "d"),
  ]);

  expect(decisions).toMatchObject([
    { outcome: "booked" },
    { outcome: "insufficient_tickets", availableTickets: 1 },
    { outcome: "booked" },
    { outcome: "sold_out" },
  ]);
});

test("B9: a batch raises the version by one however much it changed, and by none if it changed nothing", async () => {
  const id = await givenEvent({ totalTickets: 2 });

  await decide([bookCommand(id, "a"), bookCommand(id, "b")]);
  await decide([bookCommand(id, "c"), bookCommand(id, "d")]);

  expect(await ticketsOf(id)).toEqual({ available: 0, sold: 2, version: 2 });
});

test("B2: a sweep of due holds gives their tickets back and says how the events are then", async () => {
  const id = await givenEvent({ totalTickets: 3 });
  await decide([hold(id, "a", 60), hold(id, "b", 60), bookCommand(id, "c")], new Date(Date.now() - 120_000));

  const snapshots = await store.expireDueHolds(1_000);

  expect(snapshots.find(({ event }) => event.id === id)).toMatchObject({
    event: { availableTickets: 2, version: 3 },
    nextHoldExpiresAt: null,
  });
  expect(await ticketsOf(id)).toEqual({ available: 2, sold: 1, version: 3 });
  expect(await store.expireDueHolds(1_000)).toEqual([]);
});

test("L4: a sweep passes over an event that somebody else has locked, and frees the others", async () => {
  const [locked, free] = [await givenEvent({ totalTickets: 2 }), await givenEvent({ totalTickets: 2 })];
  await decide([hold(locked, "a", 60), hold(free, "a", 60)], new Date(Date.now() - 120_000));
  using _ = await lockEvent(created.url, locked);

  const snapshots = await store.expireDueHolds(1_000);

  expect(snapshots.map(({ event }) => event.id)).toEqual([free]);
  expect(await ticketsOf(free)).toMatchObject({ available: 2 });
});

test("R3: commands for slots that the shard does not own are refused, and the others of the batch are not", async () => {
  const [mine, foreign] = [await givenEvent({ totalTickets: 5 }), await givenEvent({ totalTickets: 5 })];
  const [booked] = await decide([bookCommand(foreign, "early")]);
  // Not release_slots(), which would refuse: the rows are here, and still nothing may be decided about them.
  await database.query(DISOWN, [slotOf(foreign)]);

  const decisions = await decide([
    bookCommand(mine, "user"),
    bookCommand(foreign, "user"),
    confirm(bookingIn(booked)),
  ]);
  const changed = await store.changeEvent({
    id: foreign,
    organizer: ORGANIZER,
    changes: { status: "paused" },
  });

  expect(decisions).toMatchObject([
    { outcome: "booked" },
    { outcome: "wrong_shard" },
    { outcome: "wrong_shard" },
  ]);
  expect(changed).toEqual({ outcome: "wrong_shard" });
  expect(await ticketsOf(foreign)).toEqual({ available: 4, sold: 1, version: 2 });
});

test("R3: a batch that waits while its slot is given away is refused", async () => {
  const id = await idInEmptySlot();
  await database.query(OWN, [slotOf(id)]);
  using mover = connectTo(created.url);
  await mover.run("begin");
  await mover.run("select release_slots(array[$1]::smallint[], 1)", [slotOf(id)]);

  const late = decide([bookCommand(id, "user")]);
  await untilBlocked("the batch waits for the move", 1);
  await mover.run("commit");

  expect(await late).toEqual([{ outcome: "wrong_shard" }]);
});

test("R3: a slot is given away only after running batches, and never with its events", async () => {
  const id = await givenEvent({ totalTickets: 1 });
  using blocker = await lockEvent(created.url, id);
  using mover = connectTo(created.url);
  const running = decide([bookCommand(id, "user")]);
  await untilBlocked("the batch waits for the event", 1);

  const released = mover.run("select release_slots(array[$1]::smallint[], 1)", [slotOf(id)]).then(
    () => "released",
    (error: unknown) => (error instanceof Refusal ? error.sqlState : error),
  );
  await untilBlocked("the mover waits for the batch", 2);
  await blocker.run("rollback");

  expect(await running).toMatchObject([{ outcome: "booked" }]);
  expect(await released).toBe("55006"); // object_in_use
});

test("S9: whose an event is, the shard decides under the event's lock, also for who names nobody", async () => {
  const id = await givenEvent({ totalTickets: 1 });
  const change = async (organizer: string) =>
    (await store.changeEvent({ id, organizer: organizer as UserId, changes: { status: "paused" } })).outcome;
  using operator = await lockEvent(created.url, id);
  await operator.run("update events set owner_id = 'new' where id = $1", [id]);

  const waiting = [change(ORGANIZER), change("new")];
  await untilBlocked("both wait for the event", 2);
  await operator.run("commit");

  expect(await Promise.all(waiting)).toEqual(["forbidden", "saved"]);
  const unnamed = {
    name: "change-unnamed",
    text: "select change_event($1, $2, '{}')->>'outcome' as outcome",
  };
  expect(await database.query(unnamed, [id, slotOf(id)])).toEqual([{ outcome: "forbidden" }]);
});

test("S9: an event of before owners is changed by every organizer, and nobody gets it by that", async () => {
  const id = await givenEvent({ totalTickets: 1 });
  await database.query({ name: "disinherit", text: "update events set owner_id = null where id = $1" }, [id]);

  for (const [organizer, status] of [
    ["a", "paused"],
    ["b", "on_sale"],
  ] as const) {
    const result = await store.changeEvent({ id, organizer: organizer as UserId, changes: { status } });
    expect(result).toMatchObject({ outcome: "saved", snapshot: { event: { status, ownerId: null } } });
  }
});

const OWN = { name: "own", text: "select acquire_slots(array[$1]::smallint[], 1)" };
const DISOWN = { name: "disown", text: "delete from owned_slots where slot = $1" };

async function givenEvent(fields: { totalTickets: number; maxPerUser?: number }): Promise<EventId> {
  const { id, result } = await givenEventWith(fields);
  expect(result.outcome).toBe("saved");
  return id;
}

async function givenEventWith(fields: { totalTickets: number } & Partial<CreateEventRequest>) {
  const id = newEventId(Date.now());
  await database.query(OWN, [slotOf(id)]);
  const result = await store.createEvent({
    id,
    ownerId: ORGANIZER,
    name: "Concert",
    venue: null,
    startsAt: "2040-01-01T20:00:00Z",
    salesStartAt: null,
    salesEndAt: null,
    maxPerUser: 2,
    ...fields,
  });
  return { id, result };
}

async function decide(commands: readonly Command[], when?: Date): Promise<readonly (Decision | Failure)[]> {
  return (await store.decide(commands, store.freshIdsFor(commands), when && { at: when })).decisions;
}

function hold(eventId: EventId, user: string, ttlSeconds: number): BookCommand {
  return { ...bookCommand(eventId, user), kind: "hold", ttlSeconds };
}

function confirm({ id, userId }: Booking): Extract<Command, { kind: "confirm" | "cancel" }> {
  return settleCommand("confirm", id, userId);
}

function bookingIn(decision: Decision | Failure | undefined): Booking {
  if (decision === undefined || !("booking" in decision))
    throw new Error(`no booking in ${JSON.stringify(decision)}`);
  return decision.booking;
}

/** A moment in seconds after the one that these tests begin at. */
function at(seconds: number): Date {
  return new Date(Date.parse("2031-05-01T10:00:00Z") + seconds * 1000);
}

async function ticketsOf(id: EventId): Promise<{ available: number; sold: number; version: number }> {
  const [row] = await database.query<{ available: number; sold: number; version: number }>(
    {
      name: "tickets-of",
      text: `
        select e.available_tickets as available, e.version::integer as version,
               (select coalesce(sum(b.quantity), 0)::integer from bookings b
                where b.event_id = e.id and b.status in ('held', 'confirmed')) as sold
        from events e where e.id = $1`,
    },
    [id],
  );
  if (row === undefined) throw new Error(`no event ${id}`);
  return row;
}

/** Only a slot without events can be given away. */
async function idInEmptySlot(): Promise<EventId> {
  for (;;) {
    const id = newEventId(Date.now());
    const text = "select 1 from events where slot = $1";
    const held = await database.query({ name: "events-of-slot", text }, [slotOf(id)]);
    if (held.length === 0) return id;
  }
}

/** Waits until so many statements in this test's database wait for a lock. */
async function untilBlocked(what: string, count: number): Promise<void> {
  const isBlocked = async () => {
    const [row] = await database.query<{ waiting: number }>({
      name: "waiting",
      text: `
        select count(*)::integer as waiting from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock'`,
    });
    return row?.waiting === count;
  };
  await eventually(what, isBlocked, 5_000);
}
