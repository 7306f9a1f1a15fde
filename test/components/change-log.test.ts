/** The log of changes in a real database: what is in it, in which order it can be read, and how long. */
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { audit } from "../../audit/audit.ts";
import { settleRestoredShard, settleShards } from "../../migrations/shards.ts";
import { BookingStore } from "../../shard-node/store/booking-store.ts";
import { type Database, LOCK_NOT_AVAILABLE } from "../../shared/database/database.ts";
import type { Booking } from "../../shared/domain/bookings.ts";
import type { Change } from "../../shared/domain/changes.ts";
import type { Command } from "../../shared/domain/commands.ts";
import type { EventId, ShardId } from "../../shared/domain/ids.ts";
import { bookCommand, settleCommand } from "../support/commands.ts";
import {
  administer,
  connectTo,
  createDatabase,
  lockEvent,
  openDatabase,
  storeEvent,
  type TestDatabase,
} from "../support/databases.ts";
import { eventually } from "../support/eventually.ts";

const BOOKINGS_MAX = 1_000;
const ZERO = "shard-0" as ShardId;

let created: TestDatabase;
let database: Database;
let store: BookingStore;
/** Where the log ended when the test began. */
let begin: number;

beforeAll(async () => {
  created = await createDatabase("shard");
  database = openDatabase(created.url, { connectionsMax: 6 });
  store = new BookingStore(database, () => Date.now());
});
beforeEach(async () => {
  begin = await newestPosition();
});
afterAll(async () => {
  await database.close();
  await created[Symbol.asyncDispose]();
});

test("J1: who creates an event is logged once, and so is who is given it", async () => {
  const id = await givenEvent(5);
  const again =
    "select create_event(id, slot, name, venue, starts_at, null, null, 5, 2, now()) from events where id = $1";
  await database.query({ name: "create-again", text: again }, [id]);
  const give = { name: "give", text: "select give_event($1, 'another') as given" };
  expect(await database.query(give, [id])).toEqual([{ given: true }]);

  expect(await changesAfter(begin)).toMatchObject([
    {
      events: [{ id, version: 1, availableTickets: 5 }],
      event: { id, ownerId: null, version: 1 },
      bookings: [],
    },
    { events: [{ id, version: 2 }], event: { id, ownerId: "another", version: 2, totalTickets: 5 } },
  ]);
});

test("J1: a batch is one change, and one that changes nothing is none", async () => {
  const [first, second] = [await givenEvent(1), await givenEvent(9)];
  begin = await newestPosition();

  await decide([bookCommand(first, "ada"), bookCommand(second, "ada"), bookCommand(first, "bob")]);
  await decide([bookCommand(first, "bob")]);
  await store.expireDueHolds(10);

  const [change, ...others] = await changesAfter(begin);
  expect(others).toEqual([]);
  expect(change?.events.map(({ id, availableTickets }) => [id, availableTickets]).toSorted()).toEqual([
    [first, 0],
    [second, 8],
  ]);
  expect(change?.event).toBeNull();
  expect(change?.bookings.map(({ eventId, userId, status }) => [eventId, userId, status]).toSorted()).toEqual(
    [
      [first, "ada", "confirmed"],
      [second, "ada", "confirmed"],
    ],
  );
});

test("J2: a change is not passed over because a later one is committed first", async () => {
  const [slow, quick] = [await givenEvent(9), await givenEvent(9)];
  begin = await newestPosition();
  using giver = connectTo(created.url);
  await giver.run("begin");
  await giver.run("select give_event($1, 'slow')", [slow]);
  await decide([bookCommand(quick, "ada")]);

  const between = await read(begin);
  expect(between).toMatchObject({ changes: [], position: begin });
  expect(between.lagSeconds).toBeGreaterThan(0);
  await decide([bookCommand(quick, "bob")]);
  expect(await changesAfter(begin)).toEqual([]);
  await giver.run("commit");

  const changes = await changesAfter(begin);
  expect(changes.map(({ events }) => events.map(({ id }) => id))).toEqual([[slow], [quick], [quick]]);
  expect(await newestPosition()).toBe(changes.at(-1)?.position);
});

test("J2: what is rolled back is in no log, and holds up nobody afterwards", async () => {
  const [slow, quick] = [await givenEvent(9), await givenEvent(9)];
  begin = await newestPosition();
  using giver = connectTo(created.url);
  await giver.run("begin");
  await giver.run("select give_event($1, 'slow')", [slow]);
  await decide([bookCommand(quick, "ada")]);
  await giver.run("rollback");

  expect((await changesAfter(begin)).map(({ events }) => events[0]?.id)).toEqual([quick]);
});

test("J2: no open transaction that changes no event holds up a follower", async () => {
  const id = await givenEvent(9);
  begin = await newestPosition();
  using stranger = connectTo(created.url);
  await stranger.run("begin");
  await stranger.run("create table of_a_stranger (id integer)");
  await stranger.run("select pg_advisory_xact_lock(4711)");
  await decide([bookCommand(id, "ada")]);

  expect(await changesAfter(begin)).toHaveLength(1);
  await stranger.run("rollback");
});

test("J2: changes of an event have the order of its versions, however batches overlap", async () => {
  const [first, second] = [await givenEvent(9), await givenEvent(9)].toSorted() as [EventId, EventId];
  begin = await newestPosition();
  using blocker = await lockEvent(created.url, first);
  const both = decide([bookCommand(first, "ada"), bookCommand(second, "ada")]);
  await eventually("it waits for the first event", async () => {
    const waiting = `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`;
    return (await blocker.run(waiting)).length === 1;
  });
  await decide([bookCommand(second, "bob")]);
  await blocker.run("rollback");
  await both;

  const versions = (await changesAfter(begin)).flatMap(({ events }) =>
    events.filter(({ id }) => id === second),
  );
  expect(versions.map(({ version }) => version)).toEqual([2, 3]);
});

test("J2: a follower of many writers hears each change once, and of each event in order", async () => {
  const events = await Promise.all(Array.from({ length: 6 }, async () => givenEvent(10_000)));
  begin = await newestPosition();
  const heard: Change[] = [];
  let writing = true;
  const follow = async (): Promise<void> => {
    for (let position = begin; ;) {
      const isLast = !writing;
      const answer = await read(position, 7);
      heard.push(...answer.changes);
      if (isLast && answer.changes.length === 0) return;
      position = answer.position;
    }
  };
  let buyer = 0;
  const write = async (writer: number): Promise<Booking[]> => {
    const booked: Booking[] = [];
    for (let round = 0; round < 60; round += 1) {
      const wanted = events.filter((_, index) => (index * 7 + round + writer) % 3 === 0);
      const decisions = await decide(wanted.map((id) => bookCommand(id, `buyer ${(buyer += 1)}`)));
      booked.push(...decisions);
    }
    return booked;
  };

  const following = follow();
  const booked = (await Promise.all([0, 1, 2, 3].map(write))).flat();
  writing = false;
  await following;

  const positions = heard.map(({ position }) => position);
  expect(positions).toEqual([...new Set(positions)].toSorted((a, b) => a - b));
  for (const event of events) {
    const versions = heard.flatMap(({ events: of }) => of.filter(({ id }) => id === event));
    expect(versions.map(({ version }) => version)).toEqual(versions.map((_, index) => index + 2));
  }
  const ids = heard.flatMap(({ bookings }) => bookings.map(({ id }) => id));
  expect(ids.toSorted()).toEqual(booked.map(({ id }) => id).toSorted());
});

test("J2: an answer has few bookings, but a change comes whole", async () => {
  const id = await givenEvent(100);
  begin = await newestPosition();
  for (const size of [2, 2, 5, 1]) await decide(users(size).map((user) => bookCommand(id, user)));

  const sizes: number[][] = [];
  for (let position = begin; ;) {
    const { changes, position: next } = await read(position, 4);
    if (changes.length === 0) break;
    sizes.push(changes.map(({ bookings }) => bookings.length));
    position = next;
  }
  expect(sizes).toEqual([[2, 2], [5], [1]]);
});

test("J3: what is old enough is dropped, and only who has missed changes is told", async () => {
  const id = await givenEvent(9);
  begin = await newestPosition();
  await decide([bookCommand(id, "ada")]);
  const seen = await newestPosition();

  await store.dropChanges(1);
  expect(await changesAfter(begin)).toHaveLength(1);
  // The next part has its turn, and the one before is dropped.
  await store.dropChanges(0);
  expect(await changesAfter(begin)).toHaveLength(1);
  expect(await store.dropChanges(0)).toBe(0);

  expect(await store.readChanges(begin, BOOKINGS_MAX)).toEqual({ dropped: true });
  expect(await changesAfter(seen)).toEqual([]);
  expect(await newestPosition()).toBe(seen);
  await decide([bookCommand(id, "bob")]);
  expect(await changesAfter(seen)).toMatchObject([{ bookings: [{ userId: "bob" }] }]);
  expect(await store.dropChanges(1)).toBeLessThan(60);
});

test("J3: the parts are used again and again", async () => {
  const id = await givenEvent(100);
  for (const user of users(20)) {
    begin = await newestPosition();
    await decide([bookCommand(id, user)]);
    expect(await changesAfter(begin)).toMatchObject([{ bookings: [{ userId: user }] }]);
    await store.dropChanges(0);
  }
  const stored = { name: "stored", text: "select count(*)::integer as changes from changes" };
  expect(await database.query(stored)).toEqual([{ changes: 1 }]);
});

test("J3: dropping waits for no reader longer than a moment, and nobody who books waits for it", async () => {
  const id = await givenEvent(9);
  await store.dropChanges(0);
  await decide([bookCommand(id, "ada")]);
  using reader = connectTo(created.url);
  await reader.run("begin");
  await reader.run("select from changes");
  const dropping = store.dropChanges(0);
  await decide([bookCommand(id, "bob")]);
  await expect(dropping).rejects.toMatchObject({ sqlState: LOCK_NOT_AVAILABLE });
  await reader.run("rollback");

  using dropper = connectTo(created.url);
  await dropper.run("begin");
  await dropper.run("select drop_changes('0')");
  expect(await store.dropChanges(0)).toBeUndefined();
  await decide([bookCommand(id, "eve")]);
  await dropper.run("commit");
});

test("J3: a log that is not the one that was followed says so", async () => {
  const id = await givenEvent(9);
  await decide([bookCommand(id, "ada")]);
  const seen = await newestPosition();
  // As on a replica that has become the primary, without the last changes.
  await database.query({ name: "promote", text: "update changes_dropped set timeline = timeline - 1" });

  expect(await store.readChanges(seen, BOOKINGS_MAX)).toEqual({ dropped: true });
  const anew = await newestPosition();
  expect(anew).toBeGreaterThan(seen);
  await decide([bookCommand(id, "bob")]);
  expect(await changesAfter(anew)).toMatchObject([{ bookings: [{ userId: "bob" }] }]);
  expect(await store.readChanges(anew + 8_000_000, BOOKINGS_MAX)).toEqual({ dropped: true });
});

test("J3 F6: after a restore whoever followed starts anew", async () => {
  await using shard = await givenShard();
  expect(await shard.store.readChanges(0, BOOKINGS_MAX)).toMatchObject({ dropped: false });

  await settleRestoredShard(shard.catalogUrl, ZERO);

  expect(await shard.store.readChanges(0, BOOKINGS_MAX)).toEqual({ dropped: true });
  expect(await shard.store.readChanges(null, BOOKINGS_MAX)).toMatchObject({ dropped: false });
  expect((await audit(shard.catalogUrl)).violations).toEqual([]);
});

test("J1: the audit finds an event that was changed past the log, until followers start anew", async () => {
  await using shard = await givenShard();
  expect((await audit(shard.catalogUrl)).violations).toEqual([]);
  await administer(shard.url, "update events set version = version + 1");

  const { violations } = await audit(shard.catalogUrl);
  expect(violations).toEqual([
    {
      rule: expect.stringMatching(/^J1 /),
      shard: ZERO,
      row: { id: shard.event, version: "2", logged_version: "1" },
    },
  ]);
  await administer(shard.url, "select restart_changes()");
  expect((await audit(shard.catalogUrl)).violations).toEqual([]);
});

test("J8: an answer says up to which moment everything that was committed is in", async () => {
  const [slow, quick] = [await givenEvent(9), await givenEvent(9)];
  begin = await newestPosition();
  const now = async () => {
    const [row] = await database.query<{ now: Date }>({
      name: "now",
      text: "select clock_timestamp() as now",
    });
    return row?.now.getTime() ?? 0;
  };
  const asOf = async (after: number, bookingsMax = BOOKINGS_MAX) =>
    Date.parse((await read(after, bookingsMax)).asOf);
  // Nothing was left out: as of when it was asked.
  const before = await now();
  expect(await asOf(begin)).toBeGreaterThanOrEqual(before - 1);

  using giver = connectTo(created.url);
  await giver.run("begin");
  await giver.run("select give_event($1, 'slow')", [slow]);
  await eventually("the clock goes on", async () => (await now()) > before + 5);
  const committed = await now();
  await decide([bookCommand(quick, "ada")]);
  await eventually("the clock goes on", async () => (await now()) > committed + 5);
  // The booking is committed and must wait for the change before it.
  expect(await asOf(begin)).toBeLessThan((await logged("ada")).getTime());
  await giver.run("commit");
  expect(await asOf(begin)).toBeGreaterThan(committed);

  const after = await newestPosition();
  await decide([bookCommand(quick, "bob")]);
  const bobs = (await logged("bob")).getTime();
  await eventually("the clock goes on", async () => (await now()) > bobs + 5);
  await decide([bookCommand(quick, "eve")]);
  expect((await read(after, 1)).changes).toMatchObject([{ bookings: [{ userId: "bob" }] }]);
  expect(await asOf(after, 1)).toBeGreaterThanOrEqual(bobs);
  expect(await asOf(after, 1)).toBeLessThan((await logged("eve")).getTime());
});

test("J8: a copy has every event and booking once, page by page, and when holds were confirmed", async () => {
  await using shard = await givenShard();
  const event = await shard.store.listEvents(null, 100);
  const commands = users(5).map((user) => bookCommand(shard.event, user));
  const held = { ...bookCommand(shard.event, "holder"), kind: "hold", ttlSeconds: 60 } as const;
  const all = [...commands, held];
  await shard.store.decide(all, shard.store.freshIdsFor(all));
  const { bookings } = await shard.store.copy({ kind: "bookings", after: null, limit: 100 });
  const hold = bookings.find(({ userId }) => userId === "holder") as Booking;
  expect(bookings.map(({ confirmedAt }) => confirmedAt)).toEqual(
    bookings.map(({ status, createdAt }) => (status === "held" ? null : createdAt)),
  );
  const settle = async (kind: "confirm" | "cancel") =>
    shard.store.decide([settleCommand(kind, hold.id, null)], shard.store.freshIdsFor([]));
  await settle("confirm");
  const confirmed = await copied(hold.id);
  expect(confirmed).toMatchObject({ status: "confirmed", confirmedAt: confirmed?.updatedAt });
  await eventually("the clock goes on", () => Date.now() > Date.parse(confirmed?.updatedAt ?? "") + 5);
  await settle("cancel");
  expect(await copied(hold.id)).toMatchObject({ status: "cancelled", confirmedAt: confirmed?.confirmedAt });

  const pages = [];
  for (let after: string | null = null; ;) {
    const page = await shard.store.copy({ kind: "bookings", after, limit: 2 });
    pages.push(page.bookings.map(({ id }) => id));
    if (page.next === null) break;
    after = page.next;
  }
  expect(pages.map(({ length }) => length)).toEqual([2, 2, 2, 0]);
  expect(pages.flat()).toEqual(bookings.map(({ id }) => id));
  expect(await shard.store.copy({ kind: "events", after: null, limit: 100 })).toEqual({
    outcome: "copied",
    events: await shard.store.listEvents(null, 100),
    bookings: [],
    next: null,
  });
  expect(event).toHaveLength(1);

  async function copied(id: string) {
    const page = await shard.store.copy({ kind: "bookings", after: null, limit: 100 });
    return page.bookings.find((booking) => booking.id === id);
  }
});

test("J5: whoever has followed the log to the position of a decision knows its booking as it was answered", async () => {
  const id = await givenEvent(9);
  const known = new Map<string, Booking>();
  let position = await newestPosition();
  const book = bookCommand(id, "ada");
  const hold = { ...bookCommand(id, "bob"), kind: "hold", ttlSeconds: 60 } as const;
  const decideAndFollow = async (commands: readonly Command[]): Promise<Booking[]> => {
    const batch = await store.decide(commands, store.freshIdsFor(commands));
    const answered = batch.decisions.flatMap((decision) => ("booking" in decision ? decision.booking : []));
    expect(answered).toHaveLength(commands.length);
    while (position < (batch.position ?? Number.POSITIVE_INFINITY)) {
      const { changes, position: next } = await read(position);
      expect(next).toBeGreaterThan(position);
      for (const booking of changes.flatMap(({ bookings }) => bookings)) known.set(booking.id, booking);
      position = next;
    }
    for (const booking of answered) expect(known.get(booking.id)).toEqual(booking);
    return answered;
  };

  const [first, held] = await decideAndFollow([book, hold]);
  // Nothing changes: the booking is of an earlier position.
  await decideAndFollow([book]);
  const confirm = settleCommand("confirm", held?.id as Booking["id"], null);
  await decideAndFollow([confirm]);
  await decideAndFollow([confirm]);
  await decideAndFollow([settleCommand("cancel", first?.id as Booking["id"], null)]);
});

const users = (count: number) =>
  Array.from({ length: count }, (_, number) => `user ${number} ${Math.random()}`);

/** A shard of a catalog, with one event. */
async function givenShard() {
  await using stack = new AsyncDisposableStack();
  const catalog = stack.use(await createDatabase("catalog"));
  const { url } = stack.use(await createDatabase("shard"));
  const event = await storeEvent(url, 9);
  await settleShards(catalog.url, [{ id: ZERO, databaseUrl: url }]);
  const shard = stack.use(openDatabase(url));
  const all = stack.move();
  return {
    url,
    event,
    catalogUrl: catalog.url,
    store: new BookingStore(shard, () => Date.now()),
    [Symbol.asyncDispose]: async () => all.disposeAsync(),
  };
}

async function givenEvent(totalTickets: number): Promise<EventId> {
  return storeEvent(created.url, totalTickets);
}

async function decide(commands: readonly Command[]): Promise<Booking[]> {
  const { decisions } = await store.decide(commands, store.freshIdsFor(commands));
  return decisions.flatMap((decision) => ("booking" in decision ? decision.booking : []));
}

async function read(after: number | null, bookingsMax = BOOKINGS_MAX) {
  const answer = await store.readChanges(after, bookingsMax);
  if (answer.dropped) throw new Error(`what is after ${after} was dropped`);
  return answer;
}

const newestPosition = async (): Promise<number> => (await read(null)).position;
const changesAfter = async (after: number): Promise<readonly Change[]> => (await read(after)).changes;

/** When a user's only booking was made. */
async function logged(user: string): Promise<Date> {
  const text = "select max(created_at) as at from bookings where user_id = $1";
  const [row] = await database.query<{ at: Date }>({ name: "logged", text }, [user]);
  if (row === undefined) throw new Error(`${user} has a booking`);
  return row.at;
}
