import { bookCommand } from "../support/commands.ts";
/**
 * The store and the snapshot store against the servers that a deployment runs: the images of PostgreSQL and Redis, each
 * started for this file alone. Where no Docker engine answers, or an image is neither here nor to be had soon, these
 * tests are reported as skipped, with the reason.
 */
import fc from "fast-check";
import { GenericContainer, type StartedTestContainer, Wait } from "testcontainers";
import { afterAll, beforeAll, expect, test, type TestContext } from "vitest";
import { migrate } from "../../migrations/runner.ts";
import { BookingStore } from "../../shard-node/store/booking-store.ts";
import { newEventId } from "../../shared/domain/ids.ts";
import { createLog } from "../../shared/process/log.ts";
import type { Database } from "../../shared/database/database.ts";
import { SnapshotFeed, SnapshotStore } from "../../shared/redis/redis.ts";
import type { Snapshot } from "../../shared/domain/events.ts";
import { openShard, story, tell } from "../components/sequences.ts";
import { tally } from "../support/running-cluster.ts";
import { type Obstacle, obstacleTo } from "../support/containers.ts";
import { storeEvent } from "../support/databases.ts";
import { eventually } from "../support/eventually.ts";
import { snapshot } from "../support/snapshots.ts";

const POSTGRES = "postgres:17";
const REDIS = "redis:8";
const PASSWORD = "throw-away";

let obstacle: Obstacle;
const started: StartedTestContainer[] = [];
let url: string;
let database: Database;
let redis: StartedTestContainer;
const log = createLog("containers", "silent");

beforeAll(async () => {
  obstacle = await obstacleTo([POSTGRES, REDIS]);
  if (obstacle !== undefined) {
    console.warn(`SKIPPED: tests against ${POSTGRES} and ${REDIS} (${obstacle})`);
    return;
  }
  const [postgres, cache] = await Promise.all([startPostgres(), startRedis()]);
  started.push(postgres, cache);
  redis = cache;
  url = `postgres://onsale:${PASSWORD}@${postgres.getHost()}:${postgres.getMappedPort(5432)}/shard`;
  await migrate(url, "shard");
  database = await openShard(url);
}, 180_000);

afterAll(async () => {
  await database?.close();
  for (const container of started) await container.stop();
});

test("B1 B2 B3 B4 B5 B6 B7 B8 B9 B10 B11 R3: postgres:17 and the model agree on random stories", async (context) => {
  skipIfImpossible(context);
  const seed = Number(process.env["TEST_SEED"] ?? Date.now() % 2 ** 31);
  console.log(`TEST_SEED=${seed}`);

  await fc.assert(
    fc.asyncProperty(story, async (told) => void (await tell(database, told))),
    { seed, numRuns: 300 },
  );
});

test("B1 B2: batches that race for the last tickets on postgres:17 sell each of them once", async (context) => {
  skipIfImpossible(context);
  const store = new BookingStore(database, () => Date.now());
  const id = await storeEvent(url, 5);

  const batches = Array.from({ length: 10 }, async (_, index) => {
    const command = bookCommand(id, `user-${index}`);
    return (await store.decide([command], store.freshIdsFor([command]))).decisions;
  });

  const outcomes = (await Promise.all(batches)).flat().map(({ outcome }) => outcome);
  expect(tally(outcomes)).toEqual({ booked: 5, sold_out: 5 });
  expect(await store.readEvents([id])).toMatchObject([
    { outcome: "found", value: { event: { availableTickets: 0, version: 6 } } },
  ]);
});

test("C2 C4: redis:8 keeps the newest of versions written in any order, with a time to live", async (context) => {
  skipIfImpossible(context);
  await using store = await givenSnapshotStore();
  const id = newEventId(Date.now());

  await Promise.all([3, 5, 4].map(async (version) => store.publish([snapshot(version, { id })])));
  await store.publish([snapshot(2, { id })]);

  expect(await store.read(id)).toEqual(snapshot(5, { id }));
  const key = await redisCli("--scan", "--pattern", `*${id}`);
  const output = await redisCli("pttl", key);
  expect(Number(output)).toBeGreaterThan(0);
  expect(Number(output)).toBeLessThanOrEqual(5_000);
});

test("C3: redis:8 tells every router of each newer version, and of no older one", async (context) => {
  skipIfImpossible(context);
  await using store = await givenSnapshotStore();
  const id = newEventId(Date.now());
  const heard: number[] = [];
  using _feed = givenFeed((snapshots) => heard.push(...snapshots.map(({ event }) => event.version)));
  await eventually("the feed is subscribed", async () => (await redisCli("pubsub", "channels")) !== "");

  for (const version of [1, 3, 2, 4]) await store.publish([snapshot(version, { id })]);

  await eventually("the last version is heard", () => heard.includes(4));
  expect(heard).toEqual([1, 3, 4]);
});

test("F4: without redis:8 every call fails fast instead of waiting for it", async (context) => {
  skipIfImpossible(context);
  await using store = await givenSnapshotStore();
  await redis.stop();
  started.splice(started.indexOf(redis), 1);
  await eventually("the loss is noticed", () => !store.up);

  const asked = performance.now();
  await expect(store.read(newEventId(Date.now()))).rejects.toBeInstanceOf(Error);
  await expect(store.publish([snapshot(1)])).rejects.toBeInstanceOf(Error);

  expect(performance.now() - asked).toBeLessThan(1_000);
});

/** Reports the test as skipped, with the reason, where it cannot run. */
function skipIfImpossible({ skip }: TestContext): void {
  skip(obstacle !== undefined, `SKIPPED: ${obstacle}`);
}

async function startPostgres(): Promise<StartedTestContainer> {
  return (
    new GenericContainer(POSTGRES)
      .withEnvironment({ POSTGRES_USER: "onsale", POSTGRES_PASSWORD: PASSWORD, POSTGRES_DB: "shard" })
      .withCommand(["postgres", "-c", "fsync=off"])
      .withExposedPorts(5432)
      // While it sets itself up, the image runs a server on a socket only.
      .withWaitStrategy(
        Wait.forSuccessfulCommand("pg_isready --host=127.0.0.1 --username=onsale --dbname=shard"),
      )
      .start()
  );
}

async function startRedis(): Promise<StartedTestContainer> {
  return new GenericContainer(REDIS)
    .withExposedPorts(6379)
    .withWaitStrategy(Wait.forSuccessfulCommand("redis-cli ping"))
    .start();
}

async function redisCli(...args: string[]): Promise<string> {
  return (await redis.exec(["redis-cli", ...args])).output.trim();
}

function redisUrl(): string {
  return `redis://${redis.getHost()}:${redis.getMappedPort(6379)}`;
}

async function givenSnapshotStore(): Promise<SnapshotStore & AsyncDisposable> {
  const store = new SnapshotStore(redisUrl(), log, () => undefined);
  await eventually("the connection to Redis is up", () => store.up);
  return Object.assign(store, { [Symbol.asyncDispose]: async () => store.close() });
}

function givenFeed(heard: (snapshots: readonly Snapshot[]) => void): SnapshotFeed & Disposable {
  const feed = new SnapshotFeed(redisUrl(), log, heard);
  return Object.assign(feed, { [Symbol.dispose]: () => feed.close() });
}
