/**
 * Booking requests in a shard's database: what is decided of them, what lapses, and who is first when both happen at once.
 * A connection of the test holds a lock until the others are seen to wait for it.
 */
import { afterAll, beforeAll, expect, test } from "vitest";
import { audit } from "../../audit/audit.ts";
import { settleShards } from "../../migrations/shards.ts";
import { BookingStore } from "../../shard-node/store/booking-store.ts";
import type { BookCommand } from "../../shared/domain/commands.ts";
import { type BookingId, type EventId, newBookingId, type ShardId, timeOf } from "../../shared/domain/ids.ts";
import { REQUEST_KEPT_SECONDS } from "../../shared/domain/requests.ts";
import { slotOf } from "../../shared/domain/slots.ts";
import type { Database } from "../../shared/database/database.ts";
import { bookCommand } from "../support/commands.ts";
import {
  connectTo,
  createDatabase,
  lockEvent,
  openDatabase,
  storeEvent,
  type TestDatabase,
} from "../support/databases.ts";
import { eventually } from "../support/eventually.ts";

const MAX_AGE_SECONDS = 60;
const MAX_AGE_MS = MAX_AGE_SECONDS * 1000;

let created: TestDatabase;
let database: Database;
let store: BookingStore;

beforeAll(async () => {
  created = await createDatabase("shard");
  database = openDatabase(created.url, { connectionsMax: 4 });
  store = new BookingStore(database, () => Date.now(), database, MAX_AGE_SECONDS);
});
afterAll(async () => {
  await database.close();
  await created[Symbol.asyncDispose]();
});

type Request = BookCommand & { readonly requestId: BookingId };

function requestOf(
  event: EventId,
  user: string,
  quantity = 1,
  key?: string,
  acceptedAt = Date.now(),
): Request {
  return { ...bookCommand(event, user, quantity, key), requestId: newBookingId(slotOf(event), acceptedAt) };
}

async function decide(commands: readonly BookCommand[], at?: Date) {
  const { decisions } = await store.decide(
    commands,
    store.freshIdsFor(commands),
    at === undefined ? {} : { at },
  );
  return decisions;
}

async function stateOf({ requestId }: Request, at?: Date) {
  const [read] = await store.readRequests([requestId], at);
  return read?.outcome === "found" ? read.value : read;
}

const after = ({ requestId }: Request, milliseconds: number) => new Date(timeOf(requestId) + milliseconds);

test("Q1: a granted request is the booking of its own id, and its receipt shows that", async () => {
  const event = await storeEvent(created.url, 10);
  const [booked, held] = [
    requestOf(event, "ada"),
    { ...requestOf(event, "bob"), kind: "hold", ttlSeconds: 60 } as const,
  ];

  expect(await stateOf(booked)).toEqual({ status: "queued", ahead: null });
  expect(await decide([booked, held])).toMatchObject([
    { outcome: "booked", booking: { id: booked.requestId } },
    { outcome: "held", booking: { id: held.requestId } },
  ]);

  expect(await stateOf(booked)).toMatchObject({
    status: "decided",
    decision: { outcome: "booked", booking: { id: booked.requestId, userId: "ada" } },
  });
  expect(await stateOf(held)).toMatchObject({ decision: { outcome: "held", booking: { status: "held" } } });
});

test("Q1 Q2: a message that comes again is not decided again, whatever became of it", async () => {
  const event = await storeEvent(created.url, 3);
  const [granted, limited] = [requestOf(event, "ada", 2), requestOf(event, "ada", 2)];
  const tooMany = requestOf(event, "bob", 2);
  const first = await decide([granted, limited, tooMany]);
  expect(first).toMatchObject([
    { outcome: "booked" },
    { outcome: "user_limit_exceeded", held: 2, maxPerUser: 2 },
    { outcome: "insufficient_tickets", availableTickets: 1 },
  ]);
  const soldOut = requestOf(event, "cora");
  expect(await decide([requestOf(event, "dan"), soldOut])).toMatchObject([
    { outcome: "booked" },
    { outcome: "sold_out" },
  ]);
  await add(event, 100);

  expect(await decide([granted, limited, soldOut, tooMany])).toMatchObject([
    first[0],
    first[1],
    { outcome: "sold_out" },
    first[2],
  ]);
  expect(await bookingsOf(event)).toBe(2);
});

test("Q1: what comes again does not hold up what is new in its batch, and each gets its own answer", async () => {
  const event = await storeEvent(created.url, 10);
  const known = requestOf(event, "ada");
  await decide([known]);
  const [fresh, direct] = [requestOf(event, "bob"), bookCommand(event, "cora")];

  const decisions = await decide([direct, known, fresh]);

  expect(decisions).toMatchObject([
    { outcome: "booked", booking: { userId: "cora" } },
    { outcome: "booked", booking: { id: known.requestId, userId: "ada" } },
    { outcome: "booked", booking: { id: fresh.requestId, userId: "bob" } },
  ]);
  expect(await bookingsOf(event)).toBe(3);
});

test("Q5: two requests with one key are one booking when they ask for the same, and a refusal when they do not", async () => {
  const event = await storeEvent(created.url, 10, 10);
  const first = requestOf(event, "ada", 1, "order-1");
  const again = requestOf(event, "ada", 1, "order-1");
  const other = requestOf(event, "ada", 2, "order-1");

  await decide([first]);
  await decide([again, other, requestOf(event, "bob")]);

  expect(await stateOf(again)).toMatchObject({
    decision: { outcome: "replayed", booking: { id: first.requestId } },
  });
  expect(await stateOf(other)).toEqual({
    status: "decided",
    decision: { outcome: "idempotency_key_reused" },
  });
  const direct = bookCommand(event, "ada", 1, "order-1");
  expect(await decide([direct])).toMatchObject([{ outcome: "replayed", booking: { id: first.requestId } }]);
});

test("Q2: nothing is kept of what another shard, or a later batch, must decide", async () => {
  const event = await storeEvent(created.url, 10);
  const [elsewhere, locked] = [requestOf(await foreignEvent(), "ada"), requestOf(event, "ada")];
  using lock = await lockEvent(created.url, event);

  const ids = store.freshIdsFor([elsewhere, locked]);
  const { decisions } = await store.decide([elsewhere, locked], ids, { waits: false });
  expect(decisions).toEqual([{ outcome: "wrong_shard" }, { outcome: "overloaded" }]);

  lock[Symbol.dispose]();
  expect(await stateOf(elsewhere)).toEqual({ outcome: "wrong_shard" });
  expect(await stateOf(locked)).toEqual({ status: "queued", ahead: null });
  expect(await decide([locked])).toMatchObject([{ outcome: "booked" }]);
});

test("Q3: a request that is too old lapses, by the clock of the database, and is never decided", async () => {
  const event = await storeEvent(created.url, 10);
  const [inTime, late] = [requestOf(event, "ada"), requestOf(event, "bob")];

  expect(await decide([inTime], after(inTime, MAX_AGE_MS))).toMatchObject([{ outcome: "booked" }]);
  expect(await decide([late], after(late, MAX_AGE_MS + 1))).toEqual([{ outcome: "lapsed" }]);

  expect(await stateOf(late)).toEqual({ status: "lapsed" });
  expect(await decide([late], after(late, 0))).toEqual([{ outcome: "lapsed" }]);
  expect(await bookingsOf(event)).toBe(1);
});

test("Q3: once a receipt has said that its request lapsed, the request is not decided, even if the clock is put back", async () => {
  const event = await storeEvent(created.url, 10);
  const request = requestOf(event, "ada");

  expect(await stateOf(request, after(request, MAX_AGE_MS - 1))).toEqual({ status: "queued", ahead: null });
  expect(await stateOf(request, after(request, MAX_AGE_MS))).toEqual({ status: "lapsed" });

  expect(await decide([request, bookCommand(event, "bob")], after(request, 0))).toMatchObject([
    { outcome: "lapsed" },
    { outcome: "booked" },
  ]);
  expect(await stateOf(request, after(request, 0))).toEqual({ status: "lapsed" });
});

test("Q1 Q3: a batch that waits while a receipt says lapsed does not decide the request", async () => {
  const event = await storeEvent(created.url, 10);
  const request = requestOf(event, "ada");
  using lock = await lockEvent(created.url, event);
  const deciding = decide([request, bookCommand(event, "bob")], after(request, 0)).catch(
    (error: unknown) => error,
  );
  await eventually("the batch waits", async () => (await waiting()) === 1);

  expect(await stateOf(request, after(request, MAX_AGE_MS))).toEqual({ status: "lapsed" });
  lock[Symbol.dispose]();

  expect(await deciding).toMatchObject({ kind: "refused", sqlState: "23505" });
  expect(await bookingsOf(event)).toBe(0);
  expect(await decide([request], after(request, 0))).toEqual([{ outcome: "lapsed" }]);
});

test("Q1 Q3: a receipt that is read while its request is being decided waits for that, and says what it was", async () => {
  const event = await storeEvent(created.url, 10);
  const request = requestOf(event, "ada");
  // A batch that has written the outcome and not yet committed.
  using other = connectTo(created.url);
  await other.run("begin");
  await other.run("insert into request_outcomes (booking_id, outcome) values ($1, 'sold_out')", [
    request.requestId,
  ]);
  const reading = stateOf(request, after(request, MAX_AGE_MS));
  await eventually("the reader waits", async () => (await waiting()) === 1);
  await other.run("commit");

  expect(await reading).toEqual({ status: "decided", decision: { outcome: "sold_out" } });
});

test("Q7: outcomes are forgotten after a day, never their bookings, and an old receipt is none", async () => {
  const event = await storeEvent(created.url, 10);
  const DAY_MS = REQUEST_KEPT_SECONDS * 1000;
  const old = Date.now() - DAY_MS - 2 * 3_600_000;
  const [granted, refused] = [
    requestOf(event, "ada", 1, undefined, old),
    requestOf(event, "ada", 2, undefined, old),
  ];
  await decide([granted, refused], new Date(old));
  const recent = requestOf(event, "bob", 2);
  await decide([recent]);

  await store.pruneRequests();

  expect(await outcomeOf(granted)).toBeUndefined();
  expect(await outcomeOf(refused)).toBeUndefined();
  expect(await outcomeOf(recent)).toBe("booked");
  expect(await stateOf(granted)).toMatchObject({
    decision: { outcome: "booked", booking: { id: granted.requestId } },
  });
  expect(await stateOf(refused)).toEqual({ outcome: "absent" });
  // Its message, which comes a day late, finds the booking and does not lapse beside it.
  expect(await decide([granted])).toMatchObject([{ outcome: "booked", booking: { id: granted.requestId } }]);
});

test("Q1: the database stores no second outcome of a request, and no grant without its booking", async () => {
  const event = await storeEvent(created.url, 10);
  const request = requestOf(event, "ada");
  await decide([request]);
  using connection = connectTo(created.url);
  const write = async (id: string, outcome: string, granted: string | null) =>
    connection.run("insert into request_outcomes (booking_id, outcome, granted_id) values ($1, $2, $3)", [
      id,
      outcome,
      granted,
    ]);

  await expect(write(request.requestId, "lapsed", null)).rejects.toThrow("q1_decided_once");
  const other = requestOf(event, "bob").requestId;
  await expect(write(other, "booked", null)).rejects.toThrow("q1_granted_with_booking");
  await expect(write(other, "booked", request.requestId)).rejects.toThrow("q1_own_booking");
});

async function add(event: EventId, tickets: number): Promise<void> {
  using connection = connectTo(created.url);
  await connection.run(
    "update events set total_tickets = total_tickets + $2, available_tickets = available_tickets + $2 where id = $1",
    [event, tickets],
  );
}

test("Q1: the audit names an outcome that contradicts its booking", async () => {
  await using catalog = await createDatabase("catalog");
  await using shard = await createDatabase("shard");
  const event = await storeEvent(shard.url, 9);
  await settleShards(catalog.url, [{ id: "shard-0" as ShardId, databaseUrl: shard.url }]);
  const own = openDatabase(shard.url);
  try {
    const [kept, gone, lapsed] = [requestOf(event, "ada"), requestOf(event, "bob"), requestOf(event, "cora")];
    const audited = new BookingStore(own, () => Date.now(), own, MAX_AGE_SECONDS);
    await audited.decide([kept, gone, lapsed], audited.freshIdsFor([kept, gone, lapsed]));
    expect((await audit(catalog.url)).violations).toEqual([]);

    // Behind the back of all functions.
    using connection = connectTo(shard.url);
    await connection.run("set session_replication_role = replica");
    await connection.run("delete from bookings where id = $1", [gone.requestId]);
    await connection.run(
      "update request_outcomes set outcome = 'lapsed', granted_id = null where booking_id = $1",
      [lapsed.requestId],
    );

    const { violations } = await audit(catalog.url);
    expect(violations.filter(({ rule }) => rule.startsWith("Q1")).map(({ row }) => row)).toEqual(
      expect.arrayContaining([
        expect.objectContaining({ booking_id: gone.requestId, outcome: "booked", booking: null }),
        expect.objectContaining({
          booking_id: lapsed.requestId,
          outcome: "lapsed",
          own_booking: "confirmed",
        }),
      ]),
    );
  } finally {
    await own.close();
  }
});

async function bookingsOf(event: EventId): Promise<number> {
  using connection = connectTo(created.url);
  const [row] = await connection.run("select count(*)::integer as count from bookings where event_id = $1", [
    event,
  ]);
  return (row as { count: number }).count;
}

async function outcomeOf({ requestId }: Request): Promise<string | undefined> {
  using connection = connectTo(created.url);
  const [row] = await connection.run("select outcome from request_outcomes where booking_id = $1", [
    requestId,
  ]);
  return (row as { outcome: string } | undefined)?.outcome;
}

/** Backends of this database that wait for a lock. */
async function waiting(): Promise<number> {
  using connection = connectTo(created.url);
  const [row] = await connection.run(
    "select count(*)::integer as count from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
  );
  return (row as { count: number }).count;
}

/** The id of an event in a slot that this shard does not own. */
async function foreignEvent(): Promise<EventId> {
  const id = await storeEvent(created.url, 1);
  using connection = connectTo(created.url);
  await connection.run("delete from events where id = $1", [id]);
  await connection.run("delete from owned_slots where slot = $1", [slotOf(id)]);
  return id;
}
