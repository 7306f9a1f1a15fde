import { Redis } from "ioredis";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Event } from "../../shared/domain/events.ts";
import { newEventId } from "../../shared/domain/ids.ts";
import { PATIENT, startTestCluster, type TestCluster, testRedisUrl } from "../support/running-cluster.ts";
import { eventually } from "../support/eventually.ts";

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

test("C8 C1: while 300 strangers list, organizers create and change events, and then see them in the list", async () => {
  await using cluster = await startTestCluster({ env: PATIENT });
  const client = cluster.client();
  let ended = false;
  const strangers = Array.from({ length: 300 }, async () => {
    while (!ended) {
      // A page that nobody has asked for before, so memory cannot answer it.
      const cursor = newEventId(Date.now());
      const { status } = await client.send("GET", `/v1/events?limit=100&cursor=${cursor}`);
      expect([200, 503]).toContain(status);
    }
  });
  try {
    // createEvent() throws when the answer is not 201.
    const { id } = await client.createEvent();
    const changed = await client.send("PATCH", `/v1/events/${id}`, {
      as: "the-organizer",
      role: "organizer",
      body: { name: "changed" },
    });
    expect(changed.status).toBe(200);
    // The promise is for those who write: this reader would wait for a place among the strangers.
    ended = true;
    await Promise.all(strangers);
    const { items } = (await client.send<{ items: Event[] }>("GET", "/v1/events?limit=1")).body;
    expect(items).toEqual([changed.body]);
  } finally {
    ended = true;
    await Promise.all(strangers);
  }
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
      as: "the-organizer",
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
      await redis.publish("{onsale}:3:snapshots", message);
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
    await eventually("Redis has the event", async () =>
      redis.hget(`{onsale}:3:event:${event?.id}`, "version"),
    );
    await redis.del(`{onsale}:3:event:${event?.id}`);

    expect((await there?.send("GET", path))?.headers.get("cache-status")).toBe("onsale; fwd=miss");
    await eventually("Redis has it again", async () =>
      redis.hget(`{onsale}:3:event:${event?.id}`, "version"),
    );
    redis.disconnect();
    await eventually("the first router finds it there", async () => {
      const { headers } = (await here?.send("GET", path)) ?? { headers: new Headers() };
      return headers.get("cache-status") === "onsale; hit; detail=redis";
    });
  });
});
