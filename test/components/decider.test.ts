import { bookCommand, settleCommand } from "../support/commands.ts";
/**
 * Faults of a real database while a batch is decided (F1): what every command is told must be true of the rows that are
 * there afterwards. Locks and a proxy force each fault to happen at its moment.
 */
import pino from "pino";
import { afterAll, beforeAll, expect, test } from "vitest";
import { BookingStore } from "../../shard-node/store/booking-store.ts";
import { Decider } from "../../shard-node/decide/decider.ts";
import { type EventId, newEventId } from "../../shared/domain/ids.ts";
import type { Connection } from "../../shared/database/connection.ts";
import { Database, type DatabaseOptions } from "../../shared/database/database.ts";
import { slotOf } from "../../shared/domain/slots.ts";
import type { Command } from "../../shared/domain/commands.ts";
import type { Booking } from "../../shared/domain/bookings.ts";
import type { CommandResult } from "../../shared/domain/outcomes.ts";
import { connectTo, createDatabase, lockEvent, type TestDatabase } from "../support/databases.ts";
import { eventually } from "../support/eventually.ts";
import { startFaultyProxy } from "./faulty-proxy.ts";

/** The name of the prepared statement, which every request to decide a batch carries. */
const DECIDE = "decide-batch";

let created: TestDatabase;
/** The test's own connection, which no fault touches. */
let observer: Connection;

beforeAll(async () => {
  created = await createDatabase("shard");
  observer = connectTo(created.url);
});
afterAll(async () => {
  observer.close();
  await created[Symbol.asyncDispose]();
});

test("F1: a batch whose server process is killed is tried again and decided", async () => {
  await using node = givenNode();
  const id = await givenEvent(5);
  using blocker = await lockEvent(created.url, id);
  const deciding = node.decide([bookCommand(id, "a"), bookCommand(id, "b", 2)]);

  const first = await backendThatWaits();
  await observer.run("select pg_terminate_backend($1)", [first.pid]);
  await backendThatWaits(first);
  await blocker.run("rollback");

  expect(await deciding).toMatchObject([{ outcome: "booked" }, { outcome: "booked" }]);
  expect(await stored(id)).toEqual({
    available: 2,
    version: 2,
    bookings: ["a 1 confirmed", "b 2 confirmed"],
  });
});

test("F1: killed at both tries, every command is told that its outcome is unknown, and nothing was booked", async () => {
  await using node = givenNode();
  const id = await givenEvent(5);
  using blocker = await lockEvent(created.url, id);
  const deciding = node.decide([bookCommand(id, "a"), bookCommand(id, "b")]);

  const first = await backendThatWaits();
  await observer.run("select pg_terminate_backend($1)", [first.pid]);
  const second = await backendThatWaits(first);
  await observer.run("select pg_terminate_backend($1)", [second.pid]);

  expect(await deciding).toEqual([{ outcome: "outcome_unknown" }, { outcome: "outcome_unknown" }]);
  await blocker.run("rollback");
  expect(await stored(id)).toEqual({ available: 5, version: 1, bookings: [] });
  expect(await node.decide([bookCommand(id, "a")])).toMatchObject([{ outcome: "booked" }]);
});

test.each([
  { limit: "statement", statementTimeoutMs: 2_000, lockTimeoutMs: 20_000 },
  { limit: "lock", statementTimeoutMs: 20_000, lockTimeoutMs: 2_000 },
])("F1: a batch that met the $limit timeout is tried again and decided", async (limits) => {
  await using node = givenNode(limits);
  const id = await givenEvent(5);
  using blocker = await lockEvent(created.url, id);
  const deciding = node.decide([bookCommand(id, "a")]);

  const first = await backendThatWaits();
  await backendThatWaits(first);
  await blocker.run("rollback");

  expect(await deciding).toMatchObject([{ outcome: "booked" }]);
  expect(await stored(id)).toEqual({ available: 4, version: 2, bookings: ["a 1 confirmed"] });
});

test.each([
  { limit: "statement", statementTimeoutMs: 200, lockTimeoutMs: 20_000, outcome: "shard_unavailable" },
  // The database is well; somebody else has the event.
  { limit: "lock", statementTimeoutMs: 20_000, lockTimeoutMs: 200, outcome: "overloaded" },
])(
  "F1: a batch that met the $limit timeout twice is told so, and nothing was booked",
  async ({ outcome, ...limits }) => {
    await using node = givenNode(limits);
    const id = await givenEvent(5);
    using blocker = await lockEvent(created.url, id);

    const results = await node.decide([bookCommand(id, "a"), bookCommand(id, "b")]);

    expect(results).toEqual([{ outcome }, { outcome }]);
    await blocker.run("rollback");
    expect(await stored(id)).toEqual({ available: 5, version: 1, bookings: [] });
  },
);

test("F1: a request that was lost on its way is sent again", async () => {
  await using proxy = await startFaultyProxy(created.url);
  await using node = givenNode({ url: proxy.url });
  const id = await givenEvent(1);
  const intercepted = proxy.intercept(DECIDE);
  const deciding = node.decide([bookCommand(id, "a")]);

  (await intercepted).cut();

  expect(await deciding).toMatchObject([{ outcome: "booked" }]);
  expect(await stored(id)).toEqual({ available: 0, version: 2, bookings: ["a 1 confirmed"] });
});

test("B4 F1: a batch whose answer was lost after the commit finds its own bookings at the second try", async () => {
  await using proxy = await startFaultyProxy(created.url);
  await using node = givenNode({ url: proxy.url });
  const id = await givenEvent(4, 3);
  const [kept, dropped] = await held(node, id, ["kept", "dropped"]);
  const intercepted = proxy.intercept(DECIDE);
  const deciding = node.decide([
    confirm(kept),
    { ...confirm(dropped), kind: "cancel" },
    bookCommand(id, "a", 2),
    { ...bookCommand(id, "b"), kind: "hold", ttlSeconds: 60 },
    bookCommand(id, "c"),
  ]);

  const request = await intercepted;
  await request.deliver();
  const committed = await stored(id);
  request.cut();

  expect(await deciding).toMatchObject([
    { outcome: "confirmed", booking: { id: kept.id, status: "confirmed" } },
    { outcome: "cancelled", booking: { id: dropped.id, status: "cancelled" } },
    { outcome: "booked", booking: { userId: "a", quantity: 2, status: "confirmed" } },
    { outcome: "held", booking: { userId: "b", quantity: 1, status: "held" } },
    // Nobody can tell whether the lost try is over: it is, but it might have been on its way still.
    { outcome: "outcome_unknown" },
  ]);
  expect(await stored(id)).toEqual(committed);
  expect(committed).toEqual({
    available: 0,
    version: 3,
    bookings: ["a 2 confirmed", "b 1 held", "dropped 1 cancelled", "kept 1 confirmed"],
  });
});

test("B4 F1: a client's own replay stays one when its batch is tried twice", async () => {
  await using proxy = await startFaultyProxy(created.url);
  await using node = givenNode({ url: proxy.url });
  const id = await givenEvent(4);
  const command = bookCommand(id, "a");
  const [first] = await node.decide([command]);
  const intercepted = proxy.intercept(DECIDE);
  const deciding = node.decide([{ ...command }, bookCommand(id, "b")]);

  const request = await intercepted;
  await request.deliver();
  request.cut();

  expect(await deciding).toMatchObject([
    { outcome: "replayed", booking: first && "booking" in first ? first.booking : {} },
    { outcome: "booked" },
  ]);
});

test("B4 F1: a request that reaches the server after its second try was decided books nothing again", async () => {
  await using proxy = await startFaultyProxy(created.url);
  await using node = givenNode({ url: proxy.url });
  const id = await givenEvent(4);
  const intercepted = proxy.intercept(DECIDE);
  const deciding = node.decide([bookCommand(id, "a", 2), bookCommand(id, "b")]);

  const request = await intercepted;
  request.cut();
  const results = await deciding;
  await request.deliver();

  expect(results).toMatchObject([{ outcome: "booked" }, { outcome: "booked" }]);
  expect(await stored(id)).toEqual({
    available: 1,
    version: 2,
    bookings: ["a 2 confirmed", "b 1 confirmed"],
  });
});

test("F1: nobody is told no while a lost try may still be decided otherwise", async () => {
  await using proxy = await startFaultyProxy(created.url);
  await using node = givenNode({ url: proxy.url });
  const id = await givenEvent(1);
  const [sold] = await held(node, id, ["owner"]);
  const intercepted = proxy.intercept(DECIDE);
  const deciding = node.decide([bookCommand(id, "a")]);

  const request = await intercepted;
  request.cut();
  const results = await deciding;
  await node.decide([{ ...confirm(sold), kind: "cancel" }]);
  await request.deliver();

  expect(results).toEqual([{ outcome: "outcome_unknown" }]);
  expect(await stored(id)).toMatchObject({ available: 0, bookings: ["a 1 confirmed", "owner 1 cancelled"] });
});

test("F1: a no is final when the lost try's server process said that it ended", async () => {
  await using node = givenNode();
  const id = await givenEvent(1);
  await held(node, id, ["owner"]);
  using blocker = await lockEvent(created.url, id);
  const deciding = node.decide([bookCommand(id, "a")]);

  const first = await backendThatWaits();
  await observer.run("select pg_terminate_backend($1)", [first.pid]);
  await backendThatWaits(first);
  await blocker.run("rollback");

  expect(await deciding).toEqual([{ outcome: "sold_out" }]);
});

test("F1: a commit in doubt and then no connection at all is an unknown outcome; the same key settles it", async () => {
  await using node = givenNode();
  const id = await givenEvent(4);
  const command = bookCommand(id, "a");
  let results: readonly CommandResult[];
  {
    await using proxy = await startFaultyProxy(created.url);
    await using faulty = givenNode({ url: proxy.url });
    const intercepted = proxy.intercept(DECIDE);
    const deciding = faulty.decide([command]);
    const request = await intercepted;
    await request.deliver();
    proxy.refuse();
    request.cut();
    results = await deciding;
  }

  expect(results).toEqual([{ outcome: "outcome_unknown" }]);
  expect(await node.decide([{ ...command }])).toMatchObject([{ outcome: "replayed" }]);
  expect(await stored(id)).toEqual({ available: 3, version: 2, bookings: ["a 1 confirmed"] });
});

test("F1: with no database at all nothing took effect, and that is what everybody is told", async () => {
  await using proxy = await startFaultyProxy(created.url);
  await using node = givenNode({ url: proxy.url });
  const id = await givenEvent(4);
  proxy.refuse();

  const results = await node.decide([bookCommand(id, "a"), bookCommand(id, "b")]);

  expect(results).toEqual([{ outcome: "shard_unavailable" }, { outcome: "shard_unavailable" }]);
});

test("F1 S2: a command that PostgreSQL will not store is refused alone, not with its batch", async () => {
  await using node = givenNode();
  const id = await givenEvent(9);
  const [hold] = await held(node, id, ["holder"]);

  const results = await node.decide([
    bookCommand(id, "a"),
    bookCommand(id, "poison\0"),
    confirm(hold),
    bookCommand(id, "b", 2),
  ]);

  expect(results).toMatchObject([
    { outcome: "booked", booking: { userId: "a" } },
    { outcome: "internal" },
    { outcome: "confirmed", booking: { userId: "holder" } },
    { outcome: "booked", booking: { userId: "b" } },
  ]);
  expect(await stored(id)).toEqual({
    available: 5,
    version: 5,
    bookings: ["a 1 confirmed", "b 2 confirmed", "holder 1 confirmed"],
  });
});

test("F8: after an error that nobody foresaw a commit may stand, so the outcome is unknown; the same key settles it", async () => {
  await using node = givenNode();
  await using buggy = givenNode({ store: StoreWithBug });
  const id = await givenEvent(4);
  const command = bookCommand(id, "a");

  expect(await buggy.decide([command])).toEqual([{ outcome: "outcome_unknown" }]);

  expect(await node.decide([{ ...command }])).toMatchObject([{ outcome: "replayed" }]);
  expect(await stored(id)).toMatchObject({ available: 3, bookings: ["a 1 confirmed"] });
});

/** Decides, and cannot read what was decided. */
class StoreWithBug extends BookingStore {
  override async decide(...batch: Parameters<BookingStore["decide"]>): Promise<never> {
    await super.decide(...batch);
    throw new TypeError("a bug");
  }
}

interface Node extends AsyncDisposable {
  decide(commands: readonly Command[]): Promise<readonly CommandResult[]>;
}

function givenNode({
  store: Store = BookingStore,
  ...options
}: Partial<Pick<DatabaseOptions, "url" | "statementTimeoutMs" | "lockTimeoutMs">> & {
  store?: typeof BookingStore;
} = {}): Node {
  const database = new Database({
    url: created.url,
    applicationName: "decider",
    connectionsMax: 2,
    waitersMax: 10,
    connectTimeoutMs: 5_000,
    statementTimeoutMs: 30_000,
    lockTimeoutMs: 30_000,
    ...options,
  });
  const store = new Store(database, () => Date.now());
  const hooks = { committed() {}, lockWaited() {} };
  const decider = new Decider(store, hooks, pino({ level: "silent" }));
  return {
    decide: async (commands) => (await decider.decide(commands)).map(({ result }) => result),
    [Symbol.asyncDispose]: async () => database.close(),
  };
}

async function givenEvent(totalTickets: number, maxPerUser = 2): Promise<EventId> {
  const id = newEventId(Date.now());
  await observer.run("select acquire_slots(array[$1]::smallint[], 1)", [slotOf(id)]);
  await observer.run(
    "select create_event($1, $2::smallint, 'Concert', null, now() + interval '1 day', null, null, $3, $4, now())",
    [id, slotOf(id), totalTickets, maxPerUser],
  );
  return id;
}

async function held(node: Node, id: EventId, users: readonly string[]): Promise<[Booking, Booking]> {
  const holds = users.map((user): Command => ({ ...bookCommand(id, user), kind: "hold", ttlSeconds: 600 }));
  const bookings = (await node.decide(holds)).flatMap((result) =>
    "booking" in result ? result.booking : [],
  );
  return bookings as [Booking, Booking];
}

interface Backend {
  readonly pid: number;
  readonly started: string;
}

/** The server process that waits for a lock to decide a batch; a later try than the given one. */
async function backendThatWaits(after?: Backend): Promise<Backend> {
  const find = async () => {
    const rows = await observer.run<Backend>(`
      select pid, xact_start::text as started from pg_stat_activity
      where datname = current_database() and wait_event_type = 'Lock' and query like '%decide_batch%'`);
    return rows.find(({ started }) => started !== after?.started);
  };
  return eventually("a batch waits for the event", find, 5_000);
}

function confirm({ id, userId }: Booking): Extract<Command, { kind: "confirm" | "cancel" }> {
  return settleCommand("confirm", id, userId);
}

async function stored(id: EventId): Promise<{ available: number; version: number; bookings: string[] }> {
  const rows = await observer.run<{ available: number; version: number; bookings: string[] }>(
    `select e.available_tickets as available, e.version::integer as version,
            array(select concat_ws(' ', b.user_id, b.quantity, b.status) from bookings b
                  where b.event_id = e.id order by 1) as bookings
     from events e where e.id = $1`,
    [id],
  );
  const [row] = rows;
  if (row === undefined) throw new Error(`no event ${id}`);
  return row;
}
