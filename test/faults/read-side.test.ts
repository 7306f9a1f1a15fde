/** What becomes of the read side, and of everybody else, when something is taken from it. */
import { expect, test } from "vitest";
import { startPostgresServer } from "../../deploy/embedded/postgres-server.ts";
import { startFaultyProxy } from "../components/faulty-proxy.ts";
import { createEmptyDatabase } from "../support/databases.ts";
import { eventually } from "../support/eventually.ts";
import { freeze } from "../support/freeze.ts";
import { startTestReadSide } from "../support/read-side.ts";
import { startTestCluster } from "../support/running-cluster.ts";

test("V5 V8: its database hangs, is killed and comes back; bookings and reads of events never notice", async () => {
  await using cluster = await startTestCluster({ shards: 1 });
  const databases = ["read_side"];
  await using server = await startPostgresServer({ databases, durable: true });
  await using readSide = await startTestReadSide(cluster.nodes, {
    DATABASE_URL: server.url("read_side"),
    STATEMENT_TIMEOUT_MS: "200",
    CONNECT_TIMEOUT_MS: "200",
    POOL_WAIT_MAX_MS: "200",
    WRITE_TIMEOUT_MS: "500",
  });
  await readSide.ready();
  const client = cluster.client();
  const event = await client.createEvent({ totalTickets: 10_000, maxPerUser: 100 });
  let isOver = false;
  const selling = (async () => {
    const statuses = new Set<number>();
    let booked = 0;
    for (; !isOver; booked += 1) {
      statuses.add((await client.book(event.id, `buyer ${booked}`, 1)).status);
      statuses.add((await client.send("GET", `/v1/events/${event.id}`)).status);
    }
    return { statuses: [...statuses], booked };
  })();
  const isRefused = async (): Promise<boolean> => (await readSide.ofUser("buyer 0")).outcome !== "page";
  const answers = async (): Promise<boolean> => !(await isRefused());

  {
    await using _ = freeze(server.pid);
    await eventually("it refuses", isRefused);
  }
  await eventually("it answers again", answers);
  process.kill(server.pid, "SIGKILL");
  await eventually("it refuses", isRefused);
  await eventually("it says so", async () => (await fetch(`${readSide.adminUrl}/readyz`)).status === 503);
  const { dataDir, port } = server;
  await using _ = await startPostgresServer({ dataDir, port, durable: true });
  await eventually("it answers again", answers);
  isOver = true;
  const { statuses, booked } = await selling;

  expect(new Set(statuses)).toEqual(new Set([201, 200]));
  const last = await client.book(event.id, "the last", 1);
  await eventually("it knows the last booking", async () => {
    const answer = await readSide.ofUser("the last");
    return answer.outcome === "page" && answer.items.some(({ id }) => id === last.body.id);
  });
  expect(await readSide.statistics(event.id)).toMatchObject({
    statistics: { confirmed: booked + 1, buyers: booked + 1 },
  });
});

test("V1: a write whose answer is lost counts once, and so does one that never arrived", async () => {
  await using cluster = await startTestCluster({ shards: 1 });
  await using database = await createEmptyDatabase();
  await using proxy = await startFaultyProxy(database.url);
  {
    await using first = await startTestReadSide(cluster.nodes, { DATABASE_URL: database.url });
    await first.ready();
  }
  await using readSide = await startTestReadSide(cluster.nodes, { DATABASE_URL: proxy.url });
  await readSide.ready();
  const client = cluster.client();
  const event = await client.createEvent({ totalTickets: 100 });
  for (const fate of ["lost", "late"] as const) {
    const intercepted = proxy.intercept(`user of ${fate}`);
    const { headers } = await client.book(event.id, `user of ${fate}`, 2);
    const write = await intercepted;
    if (fate === "lost") await write.deliver();
    write.cut();
    await readSide.knows(`user of ${fate}`, headers);
  }
  expect(await readSide.statistics(event.id)).toMatchObject({
    statistics: { confirmed: 4, buyers: 2, perMinute: expect.anything() },
  });
  const answer = await readSide.statistics(event.id);
  if (answer.outcome !== "statistics") throw new Error("there are statistics");
  expect(answer.statistics.perMinute.reduce((sum, { confirmed }) => sum + confirmed, 0)).toBe(4);
});

test("V5 V8: a node stops and another one serves on; the read side goes on from where it was", async () => {
  await using cluster = await startTestCluster({ shards: 1, routers: 0 });
  const [shard] = cluster.shards;
  if (shard === undefined) throw new Error("there is a shard");
  await cluster.addNode(shard);
  await cluster.addRouter();
  await using readSide = await startTestReadSide(cluster.nodes);
  await readSide.ready();
  const client = cluster.client();
  const event = await client.createEvent({ totalTickets: 100 });
  await readSide.knows("ada", (await client.book(event.id, "ada", 1)).headers);

  await cluster.nodes.splice(0, 1)[0]?.close();

  const { status, headers } = await client.book(event.id, "bob", 1);
  expect(status).toBe(201);
  await readSide.knows("bob", headers);
  expect(await readSide.statistics(event.id)).toMatchObject({ statistics: { confirmed: 2, buyers: 2 } });
});
