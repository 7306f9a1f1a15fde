import { Redis } from "ioredis";
import { expect, test, vi } from "vitest";
import { createLog } from "../../shared/process/log.ts";
import { SnapshotStore } from "../../shared/redis/redis.ts";
import { testRedisUrl } from "../support/cluster.ts";
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
      const ttl = await redis.pttl(`onsale:2:event:${ID}`);
      expect(ttl).toBeGreaterThan(0);
      expect(ttl).toBeLessThanOrEqual(5_000);
      const { event } = snapshot(9);
      const half = { event: { id: event.id, version: 9 }, nextHoldExpiresAt: null };
      const another = { ...snapshot(9), event: { ...event, id: "01990000-0000-7000-8000-000000000009" } };
      for (const garbage of ["{not a snapshot", "null", JSON.stringify(half), JSON.stringify(another)]) {
        await redis.hset(`onsale:2:event:${ID}`, { snapshot: garbage });
        expect(await store.read(ID)).toBeUndefined();
      }
    } finally {
      store.close();
      redis.disconnect();
    }
  },
);
