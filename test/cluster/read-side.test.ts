/** The read side over a cluster: what it answers, and how it keeps up. */
import { afterAll, beforeAll, expect, test } from "vitest";
import {
  INTERNAL_TOKEN,
  RPC_HEADERS,
  startTestCluster,
  type TestCluster,
} from "../support/running-cluster.ts";
import { rebuildConfig } from "../../read-side/config.ts";
import { rebuildOnce } from "../../read-side/read-side.ts";
import { newEventId, type ShardId } from "../../shared/domain/ids.ts";
import { readConfig } from "../../shared/process/config.ts";
import { READ_SIDE } from "../../shared/wire/read-side.ts";
import { RPC_VERSION_HEADER } from "../../shared/wire/rpc.ts";
import { administer, connectTo, createEmptyDatabase } from "../support/databases.ts";
import { eventually } from "../support/eventually.ts";
import { startTestReadSide, type TestReadSide } from "../support/read-side.ts";

let cluster: TestCluster;
let readSide: TestReadSide;
beforeAll(async () => {
  cluster = await startTestCluster({ shards: 2 });
  readSide = await startTestReadSide(cluster.nodes);
  await readSide.ready();
});
afterAll(async () => {
  await readSide[Symbol.asyncDispose]();
  await cluster[Symbol.asyncDispose]();
});

test("V8 V9: a buyer finds what was just booked, whichever shard it is on, newest first", async () => {
  const client = cluster.client();
  const booked = [];
  for (let round = 0; round < 6; round += 1) {
    const event = await client.createEvent();
    const { body, headers } = await client.book(event.id, "ada", 1);
    booked.push(body);
    const answer = await readSide.knows("ada", headers);
    expect(answer.items).toEqual(booked.toReversed());
    expect(Date.now() - Date.parse(answer.asOf)).toBeLessThan(60_000);
  }
  const page = await readSide.ofUser("ada", { before: booked[3]?.id ?? null, limit: 2 });
  expect(page).toMatchObject({ items: [booked[2], booked[1]] });
  expect(await readSide.ofUser("nobody")).toMatchObject({ items: [] });
});

test("V1 V10: statistics follow every way that a booking can go", async () => {
  const client = cluster.client();
  const event = await client.createEvent({ totalTickets: 50, maxPerUser: 10 });
  expect(await readSide.statistics("00000000-0000-7000-8000-000000000000")).toMatchObject({
    outcome: "absent",
  });
  await client.book(event.id, "ada", 3);
  const second = await client.book(event.id, "ada", 2);
  const bob = await client.book(event.id, "bob", 4);
  const hold = await client.hold(event.id, "cid", { quantity: 5, ttlSeconds: 3600 });
  await client.hold(event.id, "eve", { quantity: 1 });
  const dropped = await client.hold(event.id, "dan", { quantity: 2 });
  await client.cancel(second.body.id, "ada");
  await client.cancel(bob.body.id, "bob");
  await client.cancel(dropped.body.id, "dan");
  const short = await client.hold(event.id, "fay", { quantity: 7, ttlSeconds: 1 });
  await client.confirm(hold.body.id, "cid");
  await eventually("the short hold has ended", async () => {
    const { body } = await client.readBooking(short.body.id, "fay");
    return body.status === "expired" && (await client.readEvent(event.id)).availableTickets === 41;
  });
  const last = await client.book(event.id, "gil", 1);
  await readSide.knows("gil", last.headers);

  const answer = await readSide.statistics(event.id);
  expect(answer).toMatchObject({
    outcome: "statistics",
    statistics: {
      eventId: event.id,
      totalTickets: 50,
      available: 40,
      held: 1,
      confirmed: 9,
      cancelled: 8,
      expired: 7,
      buyers: 3,
    },
  });
  if (answer.outcome !== "statistics") throw new Error("there are statistics");
  const sum = (of: "confirmed" | "cancelled") =>
    answer.statistics.perMinute.reduce((total, minute) => total + minute[of], 0);
  // Confirmed at any time, also those that were cancelled since.
  expect([sum("confirmed"), sum("cancelled")]).toEqual([15, 8]);
  for (const { minute } of answer.statistics.perMinute) expect(minute).toMatch(/:00\.000Z$/);

  const list = await readSide.ofEvent(event.id, { status: "cancelled" });
  expect(list).toMatchObject({ items: [{ userId: "dan" }, { userId: "bob" }, { userId: "ada" }] });
  expect(await readSide.ofEvent(event.id, { status: "expired" })).toMatchObject({
    items: [{ id: short.body.id }],
  });
});

test("V4: a rebuild ends with the same answers", async () => {
  const client = cluster.client();
  const event = await client.createEvent({ totalTickets: 50, maxPerUser: 10 });
  const hold = await client.hold(event.id, "hal", { quantity: 2 });
  await client.confirm(hold.body.id, "hal");
  const { headers } = await client.cancel(hold.body.id, "hal");
  await readSide.knows("hal", headers);
  const before = [await readSide.ofEvent(event.id), await readSide.statistics(event.id)].map(timeless);

  await rebuildOnce(rebuildSettings());

  await readSide.ready();
  expect([await readSide.ofEvent(event.id), await readSide.statistics(event.id)].map(timeless)).toEqual(
    before,
  );
  const again = await client.book(event.id, "hal", 1);
  expect(await readSide.knows("hal", again.headers)).toMatchObject({
    hasPosition: true,
    items: [{ id: again.body.id }, { id: hold.body.id, status: "cancelled" }],
  });
});

test("V11: an export has each booking once, in RFC 4180", async () => {
  const client = cluster.client();
  const event = await client.createEvent({ totalTickets: 50 });
  const odd = await client.book(event.id, 'a "b", c', 1);
  const { headers } = await client.book(event.id, "zoe", 2);
  await readSide.knows("zoe", headers);
  const answer = await readSide.csv(event.id);
  expect(answer.headers.get("content-type")).toBe("text/csv; charset=utf-8");
  const lines = (await answer.text()).split("\r\n");
  expect(lines).toHaveLength(4);
  expect(lines[0]).toBe("id,userId,quantity,status,createdAt,updatedAt");
  expect(lines[2]).toBe(
    `${odd.body.id},"a ""b"", c",1,confirmed,${odd.body.createdAt},${odd.body.updatedAt}`,
  );
});

test("V4: while tables are exchanged under load, every answer is right and none is refused", async () => {
  const client = cluster.client();
  const events = await Promise.all(
    [1, 2, 3].map(async () => client.createEvent({ totalTickets: 10_000, maxPerUser: 9 })),
  );
  const [first] = events;
  if (first === undefined) throw new Error("there are events");
  await readSide.knows("first", (await client.book(first.id, "first", 1)).headers);
  let isOver = false;
  const write = async (writer: number): Promise<number> => {
    for (let round = 0; ; round += 1) {
      if (isOver) return round;
      const [event, user] = [events[(writer + round) % 3]?.id ?? "", `writer ${writer} ${round}`];
      const hold = await client.hold(event, user, { quantity: 1 });
      const confirmed = await client.confirm(hold.body.id, user);
      const last = round % 2 === 0 ? confirmed : await client.cancel(hold.body.id, user);
      expect((await readSide.knows(user, last.headers)).items).toEqual([last.body]);
    }
  };
  const look = async (): Promise<void> => {
    let [asOf, tickets] = ["", 0];
    while (!isOver) {
      const answer = await readSide.statistics(first.id);
      if (answer.outcome !== "statistics") throw new Error(`it says ${answer.outcome}`);
      const { held, confirmed, cancelled, expired } = answer.statistics;
      expect(answer.asOf >= asOf).toBe(true);
      expect(held + confirmed + cancelled + expired).toBeGreaterThanOrEqual(tickets);
      [asOf, tickets] = [answer.asOf, held + confirmed + cancelled + expired];
    }
  };
  const working = Promise.all([...[1, 2, 3, 4].map(write), look()]);
  const builds = new Set<string>();
  for (let times = 0; times < 4; times += 1) {
    await rebuildOnce(rebuildSettings());
    builds.add(await buildOf(readSide));
  }
  isOver = true;
  const rounds = (await working).slice(0, 4).reduce<number>((sum, count) => sum + Number(count), 0);

  expect(builds.size).toBe(4);
  expect(rounds).toBeGreaterThan(4);
  for (const { id } of events) {
    const answer = await readSide.statistics(id);
    const list = await readSide.ofEvent(id, { limit: 101 });
    if (answer.outcome !== "statistics" || list.outcome !== "page") throw new Error("both are there");
    const { availableTickets } = await client.readEvent(id);
    expect(answer.statistics).toMatchObject({
      available: availableTickets,
      confirmed: 10_000 - availableTickets,
    });
  }
});

test("V4 J3: when a shard's log begins anew, everything is filled anew, and nobody is refused meanwhile", async () => {
  const client = cluster.client();
  const event = await client.createEvent();
  const { headers } = await client.book(event.id, "ida", 1);
  await readSide.knows("ida", headers);
  const before = await buildOf(readSide);

  for (const { databaseUrl } of cluster.shards) await administer(databaseUrl, "select restart_changes()");

  await eventually("other tables serve", async () => {
    expect((await readSide.ofUser("ida")).outcome).toBe("page");
    return (await buildOf(readSide)) !== before;
  });
  const again = await client.book(event.id, "ida", 1);
  expect((await readSide.knows("ida", again.headers)).items).toHaveLength(2);
});

test("V12: tables of an older version are rebuilt, and those of a newer one are left alone", async () => {
  await using database = await createEmptyDatabase();
  const env = { DATABASE_URL: database.url };
  await using first = await startTestReadSide(cluster.nodes, env);
  await first.ready();
  await administer(database.url, "update views.about set version = 0");
  await eventually("it has noticed", async () => (await first.ofUser("ada")).outcome !== "page");
  await eventually("it has rebuilt them", async () => (await first.ofUser("ada")).outcome === "page");
  expect(await versionOf(database.url)).toBeGreaterThan(0);

  await administer(database.url, "update views.about set version = 1000");
  await using second = await startTestReadSide(cluster.nodes, env);
  for (const { adminUrl, ofUser } of [first, second]) {
    await eventually("it has noticed", async () =>
      (await (await fetch(`${adminUrl}/readyz`)).text()).includes("the tables are of a newer version"),
    );
    expect(await ofUser("ada")).toEqual({ outcome: "read_side_unavailable" });
  }
  expect(await versionOf(database.url)).toBe(1000);
});

test("V1: two that serve from one database count everything once", async () => {
  const client = cluster.client();
  await using second = await startTestReadSide(cluster.nodes, { DATABASE_URL: readSide.databaseUrl });
  await second.ready();
  const event = await client.createEvent({ totalTickets: 1_000 });
  const buyers = Array.from({ length: 200 }, (_, number) => `twin ${number}`);
  await Promise.all(
    buyers.map(async (buyer) => {
      const { headers } = await client.book(event.id, buyer, 1);
      await Promise.all([readSide.knows(buyer, headers), second.knows(buyer, headers)]);
    }),
  );
  for (const one of [readSide, second])
    expect(await one.statistics(event.id)).toMatchObject({ statistics: { confirmed: 200, buyers: 200 } });
});

test("V8 F2: what is too old is not answered, and selling goes on", async () => {
  await using other = await startTestCluster({ shards: 1 });
  await using behind = await startTestReadSide(other.nodes, { READ_SIDE_LAG_MAX_SECONDS: "1" });
  await behind.ready();
  const [node] = other.nodes;
  await node?.close();
  other.nodes.splice(0);

  await eventually("it is too old", async () => {
    const answer = await behind.send(READ_SIDE.statistics, { eventId: newEventId(0) });
    return answer.status === 503 && (await answer.text()) === '{"outcome":"read_side_unavailable"}';
  });
  expect((await fetch(`${behind.adminUrl}/readyz`)).status).toBe(503);
  expect(await behind.metrics()).toMatch(/^onsale_read_side_lag_seconds\{shard="shard-0"\} [1-9]/m);

  const [shard] = other.shards;
  if (shard === undefined) throw new Error("there is a shard");
  await other.addNode(shard, { PORT: new URL(node?.url ?? "").port });
  await behind.ready();
  expect(await behind.ofUser("ada")).toMatchObject({ outcome: "page" });
});

test("V11 F2: exports are few, each gives its place back, and whoever waits for a change has places of their own", async () => {
  const client = cluster.client();
  await using few = await startTestReadSide(cluster.nodes, { WAITERS_MAX: "1", EXPORTS_MAX: "2" });
  await few.ready();
  const event = await client.createEvent({ totalTickets: 10_000, maxPerUser: 100 });
  await few.knows("kim", (await client.book(event.id, "kim", 1)).headers);
  await fill(few.databaseUrl, event.id, 30_000);

  const open = await Promise.all([few.csv(event.id), few.csv(event.id)]);
  expect(open.map(({ status }) => status)).toEqual([200, 200]);
  const refused = await few.csv(event.id);
  expect([refused.status, await refused.json()]).toEqual([503, { outcome: "read_side_unavailable" }]);
  // One reads to the end, the other leaves.
  expect((await open[0].text()).split("\r\n")).toHaveLength(30_001 + 2);
  await open[1].body?.cancel();
  await eventually("both places are free", async () =>
    (await few.metrics()).includes("onsale_read_side_exports 0"),
  );
  expect(await (await few.csv(event.id, "cancelled")).text()).toBe(
    "id,userId,quantity,status,createdAt,updatedAt\r\n",
  );

  const never = { shard: "shard-0" as ShardId, position: Number.MAX_SAFE_INTEGER };
  const waits = await Promise.all(
    [1, 2].map(async () => few.ofUser("kim", { position: never, waitMs: 500 })),
  );
  for (const answer of waits) expect(answer).toMatchObject({ outcome: "page", hasPosition: false });
  const metrics = await few.metrics();
  expect(metrics).toMatch(/^onsale_shed_total\{reason="waiters_full"\} 1$/m);
  expect(metrics).toMatch(/^onsale_shed_total\{reason="exports_full"\} 1$/m);
});

test("V11: an export that cannot be continued does not look like a whole one", async () => {
  const client = cluster.client();
  await using few = await startTestReadSide(cluster.nodes, { EXPORT_MAX_SECONDS: "1" });
  await few.ready();
  const event = await client.createEvent({ totalTickets: 10_000, maxPerUser: 100 });
  await few.knows("kim", (await client.book(event.id, "kim", 1)).headers);
  await fill(few.databaseUrl, event.id, 100_000);
  const slow = await few.csv(event.id);
  await administer(few.databaseUrl, "update views.about set version = 1000");
  await expect(slow.text()).rejects.toThrow("terminated");
});

test("S4: it answers only to those who have the internal token, in this version, in the form of a question", async () => {
  const ask = async (headers: Record<string, string>, body = "{}") =>
    (await fetch(readSide.url + READ_SIDE.statistics, { method: "POST", headers, body })).status;
  expect(await ask({})).toBe(401);
  expect(await ask({ ...RPC_HEADERS, [RPC_VERSION_HEADER]: "0" })).toBe(400);
  expect(await ask(RPC_HEADERS)).toBe(400);
  expect(await ask(RPC_HEADERS, "nonsense")).toBe(400);
});

/** Bookings of an event that nobody made, past all that is counted. */
async function fill(databaseUrl: string, eventId: string, bookings: number): Promise<void> {
  using connection = connectTo(databaseUrl);
  await connection.run(
    `insert into views.bookings (user_id, id, event_id, quantity, status, created_at, updated_at)
     select 'user ' || n, gen_random_uuid(), $1, 1, 2, now(), now() from generate_series(1, $2::integer) n`,
    [eventId, bookings],
  );
}

async function buildOf({ databaseUrl }: TestReadSide): Promise<string> {
  using connection = connectTo(databaseUrl);
  const [row] = await connection.run<{ build: string }>("select build from views.about");
  return row?.build ?? "";
}

async function versionOf(databaseUrl: string): Promise<number | undefined> {
  using connection = connectTo(databaseUrl);
  const [row] = await connection.run<{ version: number }>("select version from views.about");
  return row?.version;
}

function rebuildSettings() {
  return readConfig(rebuildConfig, {
    DATABASE_URL: readSide.databaseUrl,
    NODE_URLS: cluster.nodes.map(({ url }) => url).join(","),
    INTERNAL_TOKEN,
    LOG_LEVEL: "silent",
  });
}

function timeless<Answer extends object>(answer: Answer): Answer {
  return { ...answer, asOf: undefined };
}
