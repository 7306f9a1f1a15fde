/** The cache of events alone, with a clock that stands still. Of replicas: replica-reads.test.ts. */
import { expect, test } from "vitest";
import { EventCache, type EventCacheOptions } from "../../router/cache/event-cache.ts";
import type { EventId } from "../../shared/domain/ids.ts";
import { stoppedClock } from "../support/clock.ts";
import { snapshot, SNAPSHOT_ID as ID } from "../support/snapshots.ts";

test("C2: an older version never replaces a newer one, whichever way it comes", async () => {
  const { cache, clock } = cacheWith({
    redis: { up: true, read: async () => snapshot(3), fill: async () => undefined },
    loadFromShard: async () => ({ outcome: "found", value: snapshot(4) }),
  });
  cache.learn([snapshot(5)], clock.time);
  cache.learn([snapshot(2)], clock.time);
  cache.hear([snapshot(1)]);
  expect(cache.fresh(ID)?.snapshot.event.version).toBe(5);

  clock.time += 10_000;
  const read = await cache.read(ID);
  expect(read.outcome === "found" && read.event.snapshot.event.version).toBe(5);
  expect(cache.fresh(ID)?.snapshot.event.version).toBe(5);
});

test("C2: a copy in Redis that is behind memory makes nothing fresh; the shard is asked", async () => {
  let asked = 0;
  const { cache, clock } = cacheWith({
    redis: { up: true, read: async () => snapshot(3), fill: async () => undefined },
    loadFromShard: async () => {
      asked += 1;
      return { outcome: "found", value: snapshot(6) };
    },
  });
  cache.learn([snapshot(5)], clock.time);
  clock.time += 900;

  const read = await cache.read(ID);

  expect(read).toMatchObject({ outcome: "found", tier: "shard" });
  expect(asked).toBe(1);
  expect(cache.fresh(ID)?.snapshot.event.version).toBe(6);
});

test("C1: what memory learned and let go is not read from Redis, which may not have it yet", async () => {
  const { cache, clock } = cacheWith({
    eventsMax: 1,
    redis: { up: true, read: async () => snapshot(3), fill: async () => undefined },
    loadFromShard: async () => ({ outcome: "found", value: snapshot(5) }),
  });
  cache.learn([snapshot(5)], clock.time);
  cache.learn([snapshot(1, { id: ID.replace(/.$/, "a") as EventId })], clock.time);
  expect(await cache.read(ID)).toMatchObject({ tier: "shard" });

  cache.learn([snapshot(1, { id: ID.replace(/.$/, "c") as EventId })], clock.time);
  // By then an old entry has ended.
  clock.time += 6_000;
  expect(await cache.read(ID)).toMatchObject({ tier: "redis" });
});

test("C1: an answer to an older call makes nothing fresh that memory has let go since", () => {
  const { cache, clock } = cacheWith({ eventsMax: 1 });
  const askedAt = clock.time - 100;
  cache.learn([snapshot(5)], clock.time - 50);
  cache.learn([snapshot(1, { id: ID.replace(/.$/, "a") as EventId })], clock.time);

  cache.learn([snapshot(3)], askedAt);

  expect(cache.fresh(ID)).toBeUndefined();
});

test("C3: memory answers for less than a second after its source was asked", () => {
  const { cache, clock } = cacheWith();
  cache.learn([snapshot(1)], clock.time);
  clock.time += 799;
  expect(cache.fresh(ID)).toBeDefined();
  clock.time += 1;
  expect(cache.fresh(ID)).toBeUndefined();
});

test("C3: a published version replaces an older one at once, but makes nothing fresh", () => {
  const { cache, clock } = cacheWith();
  cache.learn([snapshot(1)], clock.time);
  clock.time += 500;
  cache.hear([snapshot(2)]);
  expect(cache.fresh(ID)?.snapshot.event.version).toBe(2);
  clock.time += 300;
  expect(cache.fresh(ID)).toBeUndefined();
});

test("C3: a version that is published while a load is under way is not lost to what the load brings", async () => {
  const gate = Promise.withResolvers<undefined>();
  const { cache } = cacheWith({
    loadFromShard: async () => {
      await gate.promise;
      return { outcome: "found", value: snapshot(1) };
    },
  });
  const reading = cache.read(ID);
  cache.hear([snapshot(2)]);
  gate.resolve(undefined);
  const read = await reading;
  expect(read.outcome === "found" && read.event.snapshot.event.version).toBe(2);
});

test("C5: sold out is said for 250 ms after the shard said so, and not past the end of a hold", () => {
  const { cache, clock } = cacheWith();
  const soldOut = { availableTickets: 0 };
  cache.learn([snapshot(1, soldOut)], clock.time);
  clock.time += 249;
  expect(cache.isSoldOut(ID)).toBe(true);
  clock.time += 1;
  expect(cache.isSoldOut(ID)).toBe(false);

  cache.learn([snapshot(2, soldOut, new Date(clock.time + 100).toISOString())], clock.time);
  clock.time += 99;
  expect(cache.isSoldOut(ID)).toBe(true);
  clock.time += 1;
  expect(cache.isSoldOut(ID)).toBe(false);
});

test("C5: only an event that is on sale is sold out", () => {
  for (const fields of [
    { status: "paused" as const },
    { salesStartAt: new Date(2_000_000).toISOString() },
    { salesEndAt: new Date(500_000).toISOString() },
    { availableTickets: 1 },
  ]) {
    const { cache, clock } = cacheWith();
    cache.learn([snapshot(1, { availableTickets: 0, ...fields })], clock.time);
    expect(cache.isSoldOut(ID)).toBe(false);
  }
});

test("C5: a copy from Redis alone never says sold out", async () => {
  const { cache } = cacheWith({
    redis: {
      up: true,
      read: async () => snapshot(1, { availableTickets: 0 }),
      fill: async () => undefined,
    },
  });
  expect(await cache.read(ID)).toMatchObject({ tier: "redis" });
  expect(cache.isSoldOut(ID)).toBe(false);
});

test("C6: however many readers wait, one load is under way", async () => {
  let loads = 0;
  const { cache } = cacheWith({
    loadFromShard: async () => {
      loads += 1;
      await new Promise(setImmediate);
      return { outcome: "found", value: snapshot(1) };
    },
  });
  const reads = await Promise.all(Array.from({ length: 1_000 }, async () => cache.read(ID)));
  expect(loads).toBe(1);
  expect(new Set(reads.map((read) => read.outcome))).toEqual(new Set(["found"]));
});

test("F2: memory holds no more events than it may", () => {
  const { cache, clock } = cacheWith({ eventsMax: 2 });
  const ids = ["a", "b", "c"].map((digit) => ID.replace(/.$/, digit) as EventId);
  for (const id of ids) cache.learn([snapshot(1, { id })], clock.time);
  expect(ids.map((id) => cache.fresh(id) !== undefined)).toEqual([false, true, true]);
});

function cacheWith(options: Partial<EventCacheOptions> = {}) {
  const clock = stoppedClock();
  const cache = new EventCache({
    eventsMax: 100,
    clock,
    redis: undefined,
    loadFromShard: async () => ({ outcome: "absent" }),
    counted: () => undefined,
    ...options,
  });
  return { cache, clock };
}
