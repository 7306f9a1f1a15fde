import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Redis } from "ioredis";
import { expect, onTestFinished, test, vi } from "vitest";
import { chooseFreePort } from "../../deploy/embedded/ports.ts";
import { createLog } from "../../shared/process/log.ts";
import { SnapshotFeed, SnapshotStore } from "../../shared/redis/redis.ts";
import { type EventId, newEventId } from "../../shared/domain/ids.ts";
import { testRedisUrl } from "../support/running-cluster.ts";
import { eventually } from "../support/eventually.ts";
import { startProxy } from "../support/proxy.ts";
import { startRedisServer } from "../support/redis.ts";
import { snapshot, SNAPSHOT_ID as ID } from "../support/snapshots.ts";

test.skipIf(testRedisUrl() === null)(
  "C2 C4: Redis keeps the newest of versions written in any order, with a time to live",
  async () => {
    const url = testRedisUrl() ?? "";
    const store = new SnapshotStore(url, createLog("test", "silent"), () => undefined);
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
      const ttl = await redis.pttl(`{onsale}:3:event:${ID}`);
      expect(ttl).toBeGreaterThan(0);
      expect(ttl).toBeLessThanOrEqual(5_000);
      const { event } = snapshot(9);
      const half = { event: { id: event.id, version: 9 }, nextHoldExpiresAt: null };
      const another = { ...snapshot(9), event: { ...event, id: "01990000-0000-7000-8000-000000000009" } };
      for (const garbage of ["{not a snapshot", "null", JSON.stringify(half), JSON.stringify(another)]) {
        await redis.hset(`{onsale}:3:event:${ID}`, { snapshot: garbage });
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
    const store = new SnapshotStore(testRedisUrl() ?? "", createLog("test", "silent"), () => undefined);
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

test.skipIf(testRedisUrl() === null)(
  "F4: a Redis in cluster mode takes many events in one call; a full one is told in one log line, and each failure is counted",
  async () => {
    const port = await startRedis(["--cluster-enabled", "yes"]);
    const redis = new Redis(port);
    onTestFinished(() => redis.disconnect());
    await redis.cluster("ADDSLOTSRANGE", 0, 16383);
    await vi.waitUntil(async () => (await redis.cluster("INFO")).includes("cluster_state:ok"), 5_000);
    const log = createLog("test", "silent");
    const [warned, failures] = [vi.spyOn(log, "warn"), [] as string[]];
    const store = new SnapshotStore(`redis://127.0.0.1:${port}`, log, (reason) => failures.push(reason));
    onTestFinished(() => store.close());
    await vi.waitUntil(() => store.up);
    const ids = Array.from({ length: 20 }, (_, index) => ID.slice(0, -2) + (index + 10)) as EventId[];
    const at = (version: number) => ids.map((id) => snapshot(version, { id }));

    await store.publish(at(1));
    for (const id of ids) expect((await store.read(id))?.event.version).toBe(1);

    await redis.config("SET", "maxmemory", "1");
    await expect(store.publish(at(2))).rejects.toThrow("OOM");
    expect((await store.read((ID.slice(0, -2) + "10") as EventId))?.event.version).toBe(1);
    await expect(store.publish(at(3))).rejects.toThrow("OOM");
    expect([failures, warned.mock.calls.length]).toEqual([["full", "full"], 1]);
    expect(warned.mock.calls[0]?.[1]).toBe("writing to Redis is away");

    await redis.config("SET", "maxmemory", "0");
    await store.publish(at(4));
    expect(warned.mock.calls.at(-1)).toEqual(["writing to Redis is back"]);
  },
);

/** The port of a Redis of its own, which ends with the test. */
async function startRedis(flags: readonly string[]): Promise<number> {
  const port = await chooseFreePort(new Set());
  const directory = mkdtempSync(join(tmpdir(), "onsale-redis-"));
  const server = await startRedisServer(port, ["--dir", directory, ...flags]);
  onTestFinished(async () => {
    await server[Symbol.asyncDispose]();
    rmSync(directory, { recursive: true });
  });
  return port;
}
