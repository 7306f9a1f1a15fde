/** Those who follow the log inside the nodes of a shard, with its real database. */
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { Followers } from "../../shard-node/read/followers.ts";
import { LogFollower } from "../../shard-node/read/log-follower.ts";
import { BookingStore } from "../../shard-node/store/booking-store.ts";
import type { Database } from "../../shared/database/database.ts";
import { systemClock } from "../../shared/process/clock.ts";
import { createLog } from "../../shared/process/log.ts";
import { createDatabase, openDatabase, storeEvent, type TestDatabase } from "../support/databases.ts";
import { eventually } from "../support/eventually.ts";

const [ONE, OTHER] = ["00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"];

let created: TestDatabase;
let database: Database;
let store: BookingStore;

beforeAll(async () => {
  created = await createDatabase("shard");
  database = openDatabase(created.url, { connectionsMax: 4 });
  store = new BookingStore(database, () => Date.now());
});
beforeEach(async () => run("delete from log_places"));
afterAll(async () => {
  await database.close();
  await created[Symbol.asyncDispose]();
});

test("J7: one node of a shard does the work; another goes on behind what was done when the first stops", async () => {
  await storeEvent(created.url, 5);
  const first = follower();
  await eventually("it has the place", () => first.done.length > 0);
  const second = follower();
  const id = await storeEvent(created.url, 5);
  await eventually("the first has it", () => first.done.includes(id));

  await first.stop();

  const next = await storeEvent(created.url, 5);
  await eventually("the second has it", () => second.done.includes(next));
  expect(second.done).toEqual([next]);
  expect(first.done.filter((each) => each === id)).toEqual([id]);
  await second.stop();
});

test("J7: what was done and not kept is done again by the next holder, and nothing is missing", async () => {
  await storeEvent(created.url, 5);
  // It dies with its place: its last position never gets there.
  const dead = follower({
    holdPlace: async (name, holder, seconds) => store.holdPlace(name, holder, seconds),
  });
  await eventually("it has done it", () => dead.done.length > 0);
  await dead.stop();

  const next = follower();
  await eventually("it is done again", () => next.done.length > 0);
  expect(next.done).toEqual(dead.done);
  await next.stop();
});

test("J7: work that its node did not finish is done by the next holder", async () => {
  const id = await storeEvent(created.url, 5);
  const first = follower();
  first.ready.works = false;
  await eventually("it tries", () => first.tried() > 0);
  await first.stop();

  const next = follower();
  await eventually("it is done", () => next.done.includes(id));
  await next.stop();
});

test("J7: who cannot do the work leaves the place to another node, and still knows how far behind it is", async () => {
  const first = follower();
  await eventually("it has the place", () => first.done.length > 0);
  first.ready.is = false;
  const second = follower();
  await eventually("the other has what comes then", async () => {
    await storeEvent(created.url, 5);
    return second.done.length > 0;
  });
  second.ready.is = false;
  await eventually("both see what nobody does", async () => {
    await storeEvent(created.url, 5);
    const each = [first, second];
    return each.every(({ follower: one, followers }) => one.lagSeconds > 0 && followers.lagSeconds > 0);
  });
  await Promise.all([first.stop(), second.stop()]);
});

test("J7: a place that was lost to dropped changes goes on with the first that is kept, and that is counted", async () => {
  const one = follower();
  await eventually("it has the place", () => one.done.length > 0);
  await one.stop();
  expect(one.skipped()).toBe(0);
  await run("update log_places set position = 0");
  await storeEvent(created.url, 5);
  const all = "(select max(position) from changes)";
  await run(`update changes_dropped set until = ${all}, truncated = ${all}`);
  await run("delete from changes");
  const id = await storeEvent(created.url, 5);

  const next = follower();
  await eventually("it goes on", () => next.done.length > 0);
  expect(next.done).toEqual([id]);
  expect(next.skipped()).toBe(1);
  await next.stop();
});

test("J7: after a failover what was committed and not followed yet is still followed", async () => {
  const one = follower();
  const first = await storeEvent(created.url, 5);
  await eventually("it has done it", () => one.done.includes(first));
  await one.stop();
  const before = await storeEvent(created.url, 5);
  const position = await positionOf("select min(position) from log_places");
  await failOver();
  const after = await storeEvent(created.url, 5);

  const next = follower();
  await eventually("it goes on", () => next.done.includes(after));
  expect(next.done).toEqual([before, after]);
  expect(next.skipped()).toBe(0);
  await next.stop();
  // Who is outside cannot know whether what it has seen is here.
  expect(await store.readChanges(position, 10)).toEqual({ dropped: true });
});

test("J7: how far a holder came on another history does not count", async () => {
  const [place, elsewhere] = [await positionOf("newest_position()"), 1e15];
  expect(await hold(ONE, 60, place)).toEqual([true, place]);
  await failOver();
  expect(await hold(ONE, 60, place + elsewhere)).toEqual([false, place]);
  expect(await hold(OTHER, 0)).toEqual([false, place]);
  expect(await hold(ONE, 60)).toEqual([true, place]);
});

test("J7: a place has one holder until that gives it back or is silent for too long, and never goes back", async () => {
  const until = await positionOf("select truncated from changes_dropped");
  await storeEvent(created.url, 5);
  const newest = await positionOf("newest_position()");
  expect(await hold(ONE, 60)).toEqual([true, until]);
  expect(await hold(OTHER, 60, newest)).toEqual([false, until]);
  expect(await hold(OTHER, 0, newest)).toEqual([false, until]);
  expect(await hold(ONE, 60, newest)).toEqual([true, newest]);
  expect(await hold(ONE, 60, until)).toEqual([true, newest]);
  expect(await hold(ONE, 0)).toEqual([false, newest]);
  expect(await hold(OTHER, 0.001)).toEqual([true, newest]);
  await eventually("it was silent for too long", async () => (await hold(ONE, 60))[0]);
  // It comes back from a pause.
  expect(await hold(OTHER, 60, newest)).toEqual([false, newest]);
});

function follower(other: Partial<Pick<BookingStore, "holdPlace">> = {}) {
  const done: string[] = [];
  const ready = { is: true, works: true };
  let tried = 0;
  let skipped = 0;
  const followers = new Followers(store, systemClock, {
    shed: () => undefined,
    changesGiven: () => undefined,
  });
  const one = new LogFollower(
    {
      follower: "test",
      isReady: () => ready.is,
      async run(changes) {
        tried += 1;
        if (ready.works) done.push(...changes.flatMap(({ event }) => event?.id ?? []));
        return ready.works;
      },
    },
    {
      store: { holdPlace: other.holdPlace ?? (async (...values) => store.holdPlace(...values)) },
      followers,
      skipped: () => (skipped += 1),
      log: createLog("test", "silent"),
    },
  );
  one.start();
  const stop = async () => {
    followers.close();
    await one.stop();
  };
  return { follower: one, followers, done, ready, tried: () => tried, skipped: () => skipped, stop };
}

async function hold(holder: string, seconds: number, position?: number) {
  const { held, position: at } = await store.holdPlace("test", holder, seconds, position);
  return [held, at];
}

async function positionOf(expression: string): Promise<number> {
  const text = `select (${expression})::float8 as position`;
  const [row] = await database.query<{ position: number }>({ name: expression, text });
  return row?.position ?? 0;
}

/** As if another server had become the primary. */
async function failOver(): Promise<void> {
  await run("update changes_dropped set timeline = timeline - 1");
  await run("update log_places set timeline = timeline - 1");
}

async function run(text: string): Promise<void> {
  await database.query({ name: text, text });
}
