import { Redis } from "ioredis";
import { expect, test, vi } from "vitest";
import { createLog } from "../../shared/process/log.ts";
import { SnapshotFeed, SnapshotStore } from "../../shared/redis/redis.ts";
import { newEventId } from "../../shared/domain/ids.ts";
import { testRedisUrl } from "../support/running-cluster.ts";
import { eventually } from "../support/eventually.ts";
import { startProxy } from "../support/proxy.ts";
import { snapshot, SNAPSHOT_ID as ID } from "../support/snapshots.ts";

test.skipIf(testRedisUrl() === null)(
  "C2 C4: Redis keeps the newest of versions written in any order, with a time to live",
  async () => {
    const url = testRedisUrl() ?? "";
    const store = new SnapshotStore(url, createLog("test", "silent"));
    const redis = new Redis(url);
    try {
      await vi.waitUntil(() => store.up);
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
  },
);

test.skipIf(testRedisUrl() === null)(
  "F4: a feed whose subscription is lost again and again harms nobody, and hears again",
  async () => {
    const url = new URL(testRedisUrl() ?? "");
    await using proxy = await startProxy(Number(url.port));
    url.port = String(proxy.port);
    const unhandled: unknown[] = [];
    const note = (error: unknown) => unhandled.push(error);
    process.on("unhandledRejection", note);
    const store = new SnapshotStore(testRedisUrl() ?? "", createLog("test", "silent"));
    const id = newEventId(Date.now());
    const heard: number[] = [];
    const feed = new SnapshotFeed(url.href, createLog("test", "silent"), (snapshots) =>
      heard.push(...snapshots.map(({ event }) => event.version)),
    );
    let version = 0;
    const hears = async () => {
      const published = (version += 1);
      await store.publish([snapshot(published, { id })]).catch(() => undefined);
      return eventually("it is heard", () => heard.includes(published), 100).catch(() => false);
    };
    try {
      await eventually("the feed hears", hears);

      let losses = 3;
      proxy.onAnswer = (data) => (/message|subscribe/.test(data.toString()) && losses-- > 0 ? "cut" : "pass");
      await eventually("its subscriptions were lost", async () => (await hears(), losses <= 0));

      await eventually("the feed hears again", hears);
      expect(unhandled).toEqual([]);
    } finally {
      process.off("unhandledRejection", note);
      feed.close();
      store.close();
    }
  },
);
