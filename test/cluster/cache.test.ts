import { Redis } from "ioredis";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { EventCache, type EventCacheOptions } from "../../router/cache/event-cache.ts";
import type { EventId } from "../../shared/domain/ids.ts";
import { createLog } from "../../shared/process/log.ts";
import { SnapshotStore } from "../../shared/redis/redis.ts";
import { startTestCluster, type TestCluster, testRedisUrl } from "../support/cluster.ts";
import { eventually } from "../support/eventually.ts";
import { snapshot, SNAPSHOT_ID as ID } from "../support/snapshots.ts";

/** A cache whose clock stands still until the test moves it. */
function cacheWith(options: Partial<EventCacheOptions> = {}) {
  const clock = { time: 1_000_000, now: () => clock.time, elapsed: () => clock.time };
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

describe("in memory", () => {
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
});

describe("without Redis", () => {
  test("C1 C3: a write shows at once on its router, and within a second on another", async () => {
    await using cluster = await startTestCluster({ routers: 2 });
    const [here, there] = cluster.routers.map((router) => cluster.client(router));
    const event = await here?.createEvent();
    if (here === undefined || there === undefined || event === undefined)
      throw new Error("two routers were started");

    for (let round = 0; round < 3; round += 1) {
      await there.readEvent(event.id);
      await here.book(event.id, `user-${round}`);
      const booked = performance.now();
      const version = round + 2;
      expect((await here.readEvent(event.id)).version).toBe(version);
      await eventually("the other router shows it", async () => {
        const asked = performance.now();
        const read = await there.readEvent(event.id);
        expect(asked - booked > 1_000 && read.version !== version, "a read after 1 s is old").toBe(false);
        return read.version === version;
      });
    }
  });
});

describe.skipIf(testRedisUrl() === null)("with Redis", () => {
  const redisUrl = testRedisUrl() ?? "";
  let cluster: TestCluster;
  beforeAll(async () => {
    cluster = await startTestCluster({ routers: 2, redisUrl });
  });
  afterAll(async () => cluster[Symbol.asyncDispose]());

  test("C1 C3: a write shows at once on its router, and within 100 ms on another that has the event in memory", async () => {
    const [here, there] = cluster.routers.map((router) => cluster.client(router));
    const event = await here?.createEvent();
    if (here === undefined || there === undefined || event === undefined)
      throw new Error("two routers were started");

    for (let round = 0; round < 10; round += 1) {
      await there.readEvent(event.id);
      await here.book(event.id, `user-${round}`);
      const version = round + 2;
      expect((await here.readEvent(event.id)).version).toBe(version);
      await eventually(
        "the other router shows it",
        async () => (await there.readEvent(event.id)).version >= version,
        100,
      );
    }
  });

  test("C3: a change of the event reaches the other router within 100 ms too", async () => {
    const [here, there] = cluster.routers.map((router) => cluster.client(router));
    const event = await here?.createEvent();
    if (here === undefined || there === undefined || event === undefined)
      throw new Error("two routers were started");
    await there.readEvent(event.id);
    await here.send("PATCH", `/v1/events/${event.id}`, {
      as: "o",
      role: "organizer",
      body: { name: "Renamed" },
    });
    await eventually(
      "the other router shows it",
      async () => (await there.readEvent(event.id)).name === "Renamed",
      100,
    );
  });

  test("F4: what is no snapshot on the channel harms nobody", async () => {
    const redis = new Redis(redisUrl);
    for (const message of ["{", "1", "[null]", '[{"event":{}}]'])
      await redis.publish("onsale:1:snapshots", message);
    redis.disconnect();
    const client = cluster.client();
    const event = await client.createEvent();
    expect((await client.book(event.id, "u")).status).toBe(201);
  });

  test("C6: what one router read from the shard, the other finds in Redis", async () => {
    const [here, there] = cluster.routers.map((router) => cluster.client(router));
    const event = await here?.createEvent();
    const path = `/v1/events/${event?.id}`;
    const redis = new Redis(redisUrl);
    await eventually("Redis has the event", async () => redis.hget(`onsale:1:event:${event?.id}`, "version"));
    await redis.del(`onsale:1:event:${event?.id}`);

    expect((await there?.send("GET", path))?.headers.get("cache-status")).toBe("onsale; fwd=miss");
    await eventually("Redis has it again", async () => redis.hget(`onsale:1:event:${event?.id}`, "version"));
    redis.disconnect();
    await eventually("the first router finds it there", async () => {
      const { headers } = (await here?.send("GET", path)) ?? { headers: new Headers() };
      return headers.get("cache-status") === "onsale; hit; detail=redis";
    });
  });

  test("C2 C4: Redis keeps the newest of versions written in any order, with a time to live", async () => {
    const store = new SnapshotStore(redisUrl, createLog("test", "silent"));
    const redis = new Redis(redisUrl);
    try {
      await eventually("the connection is up", () => store.up);
      await Promise.all([
        store.publish([snapshot(3)]),
        store.publish([snapshot(5)]),
        store.publish([snapshot(4)]),
      ]);
      await store.publish([snapshot(2)]);
      expect((await store.read(ID))?.event.version).toBe(5);
      const ttl = await redis.pttl(`onsale:1:event:${ID}`);
      expect(ttl).toBeGreaterThan(0);
      expect(ttl).toBeLessThanOrEqual(5_000);
      const { event } = snapshot(9);
      const half = { event: { id: event.id, version: 9 }, nextHoldExpiresAt: null };
      const another = { ...snapshot(9), event: { ...event, id: "01990000-0000-7000-8000-000000000009" } };
      for (const garbage of ["{not a snapshot", "null", JSON.stringify(half), JSON.stringify(another)]) {
        await redis.hset(`onsale:1:event:${ID}`, { snapshot: garbage });
        expect(await store.read(ID)).toBeUndefined();
      }
    } finally {
      store.close();
      redis.disconnect();
    }
  });
});
