import { describe, expect, test, vi } from "vitest";
import { audit } from "../../audit/audit.ts";
import { moveEmptySlot, settleRestoredShard, settleShards } from "../../migrations/shards.ts";
import type { EventId } from "../../shared/domain/ids.ts";
import { slotOf } from "../../shared/domain/slots.ts";
import { type Client, startTestCluster, tally, type TestCluster } from "../support/running-cluster.ts";
import { administer, openDatabase } from "../support/databases.ts";
import { eventually } from "../support/eventually.ts";
import { replicated, type ReplicatedServer, startReplicatedServer } from "../support/replication.ts";

/** Each test makes two servers. */
vi.setConfig({ testTimeout: 180_000 });

const PORT = { name: "port", text: "select current_setting('port')::integer as port" };

const open = (url: string) => openDatabase(url, { connectTimeoutMs: 2_000, statementTimeoutMs: 2_000 });

test("P1 B1 B4: the primary dies and its replica is promoted: the node sells on without a restart, nothing confirmed is missing", async () => {
  await using server = await startReplicatedServer();
  await using cluster = await startTestCluster({
    shards: 1,
    serverOf: () => server.url,
    env: { CONNECT_TIMEOUT_MS: "1000" },
  });
  const client = cluster.client();
  const event = await client.createEvent({ totalTickets: 1_000 });
  const book = async (user: string) =>
    client.book(event.id, user, 1, { "idempotency-key": `key-of-${user}` });
  const before = await Promise.all(Array.from({ length: 50 }, async (_, index) => book(`before-${index}`)));
  expect(tally(before.map(({ status }) => status))).toEqual({ 201: 50 });
  await replicated(server.primary, server.replica);

  await server.killPrimary();
  // The replica is there and refuses writes: nobody may be told yes, and nobody waits long.
  const started = performance.now();
  const during = await Promise.all(Array.from({ length: 10 }, async (_, index) => book(`during-${index}`)));
  expect(performance.now() - started).toBeLessThan(6_000);
  expect(during.map(({ status }) => status)).toEqual(Array.from({ length: 10 }, () => 503));
  await server.promote();
  await eventually("the promoted replica sells", async () => (await book("after")).status === 201);

  // Every one who was confirmed before gets the same booking, and each who was not can still have one.
  for (const [index, answer] of before.entries())
    expect((await book(`before-${index}`)).body.id).toBe(answer.body.id);
  const again = await Promise.all(Array.from({ length: 10 }, async (_, index) => book(`during-${index}`)));
  expect(tally(again.map(({ status }) => status))).toEqual({ 201: 10 });
  expect(await audit(cluster.catalogUrl)).toMatchObject({ ticketsSold: 61, violations: [] });
  await cluster[Symbol.asyncDispose]();
});

test("P1: a replica is not written to, a primary that turned read-only is left, and the search goes on", async () => {
  await using server = await startReplicatedServer();
  await using alone = open(server.replica.url("shard_template"));
  await expect(alone.query(PORT)).rejects.toMatchObject({
    kind: "unreachable",
    message: `127.0.0.1:${server.replica.port} accepts no writes`,
  });
  await using database = open(`${server.url}shard_template`);
  const write = { name: "write", text: "create table if not exists t (id integer)" };
  expect(await database.query(PORT)).toEqual([{ port: server.primary.port }]);

  // As an operator does who takes a primary out of service.
  await administer(server.primary.url(""), "alter system set default_transaction_read_only = on");
  await administer(server.primary.url(""), "select pg_reload_conf()");
  await expect(
    eventually("a write is refused", async () => database.query(write).then(() => false)),
  ).rejects.toMatchObject({ kind: "refused", sqlState: "25006" });
  await expect(database.query(PORT)).rejects.toMatchObject({
    kind: "unreachable",
    message: expect.stringContaining(`127.0.0.1:${server.replica.port} accepts no writes`) as string,
  });

  await replicated(server.primary, server.replica);
  await server.promote();
  expect(await database.query(PORT)).toEqual([{ port: server.replica.port }]);
  await database.query(write);
});

test("P1: a primary that comes back after it was replaced is not written to, neither by who knew it nor by who is new", async () => {
  await using server = await startReplicatedServer();
  await using database = open(`${server.url}shard_template`);
  expect(await database.query(PORT)).toEqual([{ port: server.primary.port }]);
  await server.killPrimary();
  await server.promote();
  await eventually("the promoted one is found", async () => database.query(PORT).catch(() => undefined));

  await server.reviveFormerPrimary();

  await using newcomer = open(`${server.url}shard_template`);
  expect(await newcomer.query(PORT)).toEqual([{ port: server.replica.port }]);
  expect(await database.query(PORT)).toEqual([{ port: server.replica.port }]);
  // The promoted one goes away: rather nobody than the one that lacks its bookings.
  process.kill(server.replica.pid, "SIGKILL");
  await eventually("the loss is noticed", async () =>
    database.query(PORT).then(
      () => false,
      () => true,
    ),
  );
  await expect(database.query(PORT)).rejects.toMatchObject({
    kind: "unreachable",
    message: expect.stringContaining("was replaced") as string,
  });
});

test("P1 B4: a replaced primary sells nothing, neither by a node that starts when only it can be reached nor by one that used it all along", async () => {
  await using server = await startReplicatedServer();
  await using cluster = await startTestCluster({
    shards: 1,
    serverOf: () => server.url,
    env: { CONNECT_TIMEOUT_MS: "1000" },
  });
  const [shard] = cluster.shards;
  if (shard === undefined) throw new Error("a shard");
  await using former = open(shard.databaseUrl.replace(`,127.0.0.1:${server.replica.port}`, ""));
  const bookings = async () => former.query({ name: "count", text: "select user_id from bookings" });
  const event = await cluster.client().createEvent({ totalTickets: 100 });
  expect((await cluster.client().book(event.id, "before")).status).toBe(201);
  await replicated(server.primary, server.replica);
  await server.killPrimary();
  await server.promote();
  await eventually("it sells", async () => (await cluster.client().book(event.id, "after")).status === 201);
  await eventually("the catalog knows", async () => (await timelineOf(cluster)) === 2);
  await cluster.nodes.shift()?.close();
  process.kill(server.replica.pid, "SIGKILL");
  await server.reviveFormerPrimary();

  await cluster.addUnreadyNode(shard);
  const stranded = cluster.client(await cluster.addRouter());
  for (const user of ["one", "two", "three"])
    expect((await stranded.book(event.id, user)).body.code).toBe("shard_unavailable");
  expect(await bookings()).toEqual([{ user_id: "before" }]);

  // Nor do those who look after it take it for the shard.
  const replaced = expect.stringContaining("was replaced: it writes timeline 1, and there is 2") as string;
  await expect(audit(cluster.catalogUrl)).rejects.toMatchObject({ message: replaced });
  await expect(settleShards(cluster.catalogUrl, cluster.shards)).rejects.toMatchObject({ message: replaced });
  const slot = slotOf(event.id as EventId);
  await expect(moveEmptySlot(cluster.catalogUrl, slot, shard.id)).rejects.toMatchObject({
    message: replaced,
  });

  // Given up on purpose: the one that is left is the shard's, as after a restore.
  await cluster.nodes.shift()?.close();
  await settleRestoredShard(cluster.catalogUrl, shard.id);
  await cluster.addNode(shard);
  const client = cluster.client(await cluster.addRouter());
  await eventually("it sells", async () => (await client.book(event.id, "restored")).status === 201);
  expect(await timelineOf(cluster)).toBe(1);

  // Another node finds a successor.
  await administer(cluster.catalogUrl, "update shards set timeline = 2");
  await eventually(
    "it has stopped",
    async () => (await client.book(event.id, "late")).body.code === "shard_unavailable",
  );
  const then = await bookings();
  expect((await client.book(event.id, "later")).body.code).toBe("shard_unavailable");
  expect(await bookings()).toEqual(then);
});

test("P1 B4: a primary that lives on after its replica was promoted is left within seconds", async () => {
  await using server = await startReplicatedServer();
  await using cluster = await startTestCluster({ shards: 1, serverOf: () => server.url });
  const client = cluster.client();
  const event = await client.createEvent({ totalTickets: 1_000 });
  // So that it is connected already, and has no cause to look for anybody else.
  expect((await client.book(event.id, "before")).status).toBe(201);
  await replicated(server.primary, server.replica);
  await using former = open(
    cluster.shards[0]?.databaseUrl.replace(`,127.0.0.1:${server.replica.port}`, "") ?? "",
  );
  const count = { name: "count", text: "select count(*)::integer as bookings from bookings" };
  await server.promote();

  let buyers = 0;
  const book = async () => client.book(event.id, `buyer-${(buyers += 1)}`);
  await eventually("the catalog knows", async () => {
    await book();
    return (await timelineOf(cluster)) === 2;
  });
  await eventually("the successor sells", async () => (await book()).status === 201);
  const then = await former.query(count);
  for (let times = 0; times < 20; times += 1) expect((await book()).status).toBe(201);
  expect(await former.query(count)).toEqual(then);
});

async function timelineOf({ catalogUrl }: TestCluster): Promise<number | undefined> {
  await using catalog = open(catalogUrl);
  const [shard] = await catalog.query<{ timeline: number }>({
    name: "timeline",
    text: "select timeline from shards",
  });
  return shard?.timeline;
}

/** A shard whose node reads from the replica, and two routers: the first one's memory holds next to nothing. */
async function startReplicatedCluster(server: ReplicatedServer): Promise<TestCluster & { second: Client }> {
  const cluster = await startTestCluster({
    shards: 1,
    routers: 0,
    serverOf: () => server.primary.url(""),
    replicaServer: server.replica.url(""),
    env: { REPLICA_LAG_MAX_MS: "800" },
  });
  await cluster.addRouter({ CACHE_EVENTS_MAX: "2" });
  const second = cluster.client(await cluster.addRouter());
  return Object.assign(cluster, { second });
}

async function readsFrom(cluster: TestCluster, source: "primary" | "replica"): Promise<number> {
  return metric(cluster, new RegExp(`^onsale_db_reads_total{source="${source}"} (\\d+)$`, "m"));
}

async function metric(cluster: TestCluster, line: RegExp): Promise<number> {
  const text = await (await fetch(`${cluster.nodes[0]?.adminUrl}/metrics`)).text();
  return Number(line.exec(text)?.[1]);
}

describe("reads from a replica", () => {
  test("P2 C1: with a replica that is always late, everybody reads what they wrote", async () => {
    await using server = await startReplicatedServer();
    await using cluster = await startReplicatedCluster(server);
    await administer(server.replica.url(""), "alter system set recovery_min_apply_delay = '200ms'");
    await administer(server.replica.url(""), "select pg_reload_conf()");
    const client = cluster.client();

    await Promise.all(
      Array.from({ length: 8 }, async (_, worker) => {
        const event = await client.createEvent({ totalTickets: 100 });
        const listed = async () => {
          const { body } = await client.send<{ items: { id: string; availableTickets: number }[] }>(
            "GET",
            "/v1/events",
          );
          return body.items.find(({ id }) => id === event.id)?.availableTickets;
        };
        expect(await listed()).toBe(100);
        for (let sold = 1; sold <= 10; sold += 1) {
          expect((await client.book(event.id, `user-${worker}-${sold}`)).status).toBe(201);
          expect((await client.readEvent(event.id)).availableTickets).toBe(100 - sold);
          expect(await listed()).toBe(100 - sold);
          // Others have the last word of a second ago at the latest.
          expect((await cluster.second.readEvent(event.id)).availableTickets).toBeGreaterThanOrEqual(
            100 - sold,
          );
        }
        await eventually(
          "the other router shows it",
          async () => (await cluster.second.readEvent(event.id)).availableTickets === 90,
          2_000,
        );
      }),
    );
    await eventually("the late replica is asked all the same", async () => {
      await cluster.second.send("GET", "/v1/events");
      return (await readsFrom(cluster, "replica")) > 0;
    });
    expect(await audit(cluster.catalogUrl)).toMatchObject({ ticketsSold: 80, violations: [] });
    await cluster[Symbol.asyncDispose]();
  });

  test("P2: they go to the replica, to the primary while its replay is held up, and to the primary when it is gone", async () => {
    await using server = await startReplicatedServer();
    await using cluster = await startReplicatedCluster(server);
    const client = cluster.client();
    const listing = async () => {
      const answer = await cluster.second.send<{ items: { id: string }[] }>("GET", "/v1/events");
      expect(answer.status).toBe(200);
      return answer.body.items.map(({ id }) => id);
    };
    await eventually("lists and cold reads are the replica's", async () => {
      const [event, primary, replica] = [
        await client.createEvent(),
        await readsFrom(cluster, "primary"),
        await readsFrom(cluster, "replica"),
      ];
      await replicated(server.primary, server.replica);
      await listing();
      expect((await cluster.second.readEvent(event.id)).version).toBe(event.version);
      return (
        (await readsFrom(cluster, "primary")) === primary &&
        (await readsFrom(cluster, "replica")) === replica + 2
      );
    });

    await administer(server.replica.url(""), "select pg_wal_replay_pause()");
    const unseen = await client.createEvent({ totalTickets: 10 });
    expect((await client.book(unseen.id, "a")).status).toBe(201);
    expect((await cluster.second.readEvent(unseen.id)).availableTickets).toBe(9);
    await eventually("the list has it", async () => (await listing()).includes(unseen.id));
    await eventually(
      "the lag is told",
      async () => (await metric(cluster, /^onsale_db_replica_lag_seconds ([\d.]+)$/m)) > 1,
    );
    const held = await readsFrom(cluster, "replica");
    expect((await client.book(unseen.id, "b")).status).toBe(201);
    await eventually(
      "it shows through the other router",
      async () => (await cluster.second.readEvent(unseen.id)).availableTickets === 8,
      2_000,
    );
    expect(await listing()).toContain(unseen.id);
    expect(await readsFrom(cluster, "replica")).toBe(held);

    await administer(server.replica.url(""), "select pg_wal_replay_resume()");
    await eventually("the replica is asked again", async () => {
      await listing();
      return (await readsFrom(cluster, "replica")) > held;
    });
    expect(await listing()).toContain(unseen.id);

    process.kill(server.replica.pid, "SIGKILL");
    for (let count = 0; count < 20; count += 1) expect(await listing()).toContain(unseen.id);
    const last = await client.createEvent();
    expect((await cluster.second.readEvent(last.id)).version).toBe(last.version);
    await cluster[Symbol.asyncDispose]();
  });
});
