import { expect, test, vi } from "vitest";
import { audit } from "../../audit/audit.ts";
import { Database } from "../../shared/postgres.ts";
import { startTestCluster, tally } from "../support/cluster.ts";
import { administer } from "../support/databases.ts";
import { eventually } from "../support/eventually.ts";
import { replicated, startReplicatedServer } from "../support/replication.ts";

/** Each test makes two servers. */
vi.setConfig({ testTimeout: 180_000 });

const PORT = { name: "port", text: "select current_setting('port')::integer as port" };

function open(url: string): Database & AsyncDisposable {
  const database = new Database({
    url,
    applicationName: "test",
    connectionsMax: 2,
    waitersMax: 10,
    connectTimeoutMs: 2_000,
    statementTimeoutMs: 2_000,
    lockTimeoutMs: 1_000,
  });
  return Object.assign(database, { [Symbol.asyncDispose]: async () => database.close() });
}

test("D1 B1 B4: the primary dies and its replica is promoted: the node sells on without a restart, nothing confirmed is missing", async () => {
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

test("D1: a replica is not written to, a primary that turned read-only is left, and the search goes on", async () => {
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

test("D1: a primary that comes back after it was replaced is not written to, neither by who knew it nor by who is new", async () => {
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
