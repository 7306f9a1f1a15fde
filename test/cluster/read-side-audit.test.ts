/** The audit of the read side: it names every difference from the shards, and nothing else, also under load. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { auditReadSide, type CompareOptions } from "../../audit/read-side.ts";
import { rebuildConfig } from "../../read-side/config.ts";
import { rebuildOnce } from "../../read-side/read-side.ts";
import { COMPARED_VERSION } from "../../audit/read-side-rows.ts";
import { VIEWS_VERSION } from "../../read-side/views/tables.ts";
import { readConfig } from "../../shared/process/config.ts";
import { administer, connectTo, createEmptyDatabase } from "../support/databases.ts";
import { startTestReadSide, type TestReadSide } from "../support/read-side.ts";
import { start } from "../support/run.ts";
import { INTERNAL_TOKEN, startTestCluster, type TestCluster } from "../support/running-cluster.ts";

const TABLES = ["bookings", "events", "sales", "buyers", "minutes"];

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

const compared = async (options?: CompareOptions) =>
  auditReadSide(cluster.catalogUrl, readSide.databaseUrl, options);
const rulesNamed = async (options?: CompareOptions) => [
  ...new Set((await compared(options)).violations.map(({ rule }) => rule)),
];

test("V13 V1 V10: the audit names every kind of difference between the read side and its shards", async () => {
  expect(COMPARED_VERSION).toBe(VIEWS_VERSION);
  const client = cluster.client();
  for (let count = 0; count < 4; count += 1) {
    const event = await client.createEvent({ totalTickets: 50, maxPerUser: 10 });
    await client.book(event.id, "ada", 2);
    await client.book(event.id, "bob", 1);
    const { body: hold } = await client.hold(event.id, "cid", { quantity: 3 });
    await client.confirm(hold.id, "cid");
    await client.cancel(hold.id, "cid");
    const { headers } = await client.hold(event.id, "dan", { quantity: 4 });
    await readSide.knows("dan", headers);
  }
  expect(await compared()).toEqual({ bookings: 16, violations: [] });
  using session = connectTo(readSide.databaseUrl);
  const change = async (...statements: string[]): Promise<void> => session.script(statements.join(";\n"));
  await change(
    "create schema saved",
    ...TABLES.map((name) => `create table saved.${name} as table views.${name}`),
  );

  const one = "id = (select min(id::text)::uuid from views.bookings where user_id = 'ada')";
  const held = "id = (select min(id::text)::uuid from views.bookings where status = 0)";
  const cancelled = "id = (select min(id::text)::uuid from views.bookings where status = 3)";
  const event = "id = (select min(id::text)::uuid from views.events)";
  const first = "event_id = (select min(id::text)::uuid from views.events)";
  const every = "V1 the read side has every booking";
  const other = "V1 a booking is what its shard says";
  const byStatus = "V10 tickets and buyers are counted by status";
  const byBuyer = "V10 the bookings of each buyer are counted";
  const byMinute = "V10 tickets are counted by minute";
  for (const [damage, ...rules] of [
    [`delete from views.bookings where ${one}`, every, byStatus, byBuyer, byMinute],
    [
      `insert into views.bookings select user_id, overlay(id::text placing '0000' from 33)::uuid, event_id, quantity, status, null,
         expires_at, created_at, updated_at, confirmed_at from views.bookings where ${held}`,
      "V1 the read side has no other bookings",
      byStatus,
    ],
    [`update views.bookings set status = 1 where ${held}`, other, byStatus],
    [
      `update views.bookings set status = 0, status_before = null where ${cancelled}`,
      other,
      byStatus,
      byMinute,
    ],
    [`update views.bookings set quantity = quantity + 1 where ${held}`, other, byStatus],
    [`update views.bookings set user_id = 'eve' where ${held}`, other, every],
    [`update views.bookings set event_id = gen_random_uuid() where ${held}`, other, byStatus],
    [`update views.bookings set created_at = created_at - interval '1 s' where ${one}`, other],
    [
      `update views.bookings set confirmed_at = confirmed_at - interval '1 m' where ${cancelled}`,
      other,
      byMinute,
    ],
    [
      `update views.bookings set updated_at = updated_at - interval '1 m' where ${cancelled}`,
      other,
      byMinute,
    ],
    [`delete from views.events where ${event}`, "V1 the read side has every event"],
    [
      `insert into views.events select gen_random_uuid(), version, available, total from views.events where ${event}`,
      "V1 the read side has no other events",
    ],
    [
      `update views.events set available = available - 1 where ${event}`,
      "V1 an event is what its shard says",
    ],
    [`update views.events set total = total + 1 where ${event}`, "V1 an event is what its shard says"],
    [`update views.events set total = null where ${event}`, "V1 an event is what its shard says"],
    [`update views.events set version = version - 1 where ${event}`, "V1 an event is what its shard says"],
    [`update views.events set version = version + 1 where ${event}`, "V1 an event is what its shard says"],
    [`update views.sales set held = held + 1 where ${first}`, byStatus],
    [`update views.sales set buyers = buyers - 1 where ${first}`, byStatus],
    [`delete from views.sales where ${first}`, byStatus],
    [`update views.buyers set bookings = bookings + 1 where ${first} and user_id = 'ada'`, byBuyer],
    [`delete from views.minutes where ${first}`, byMinute],
    [`update views.minutes set cancelled = cancelled + 1 where ${first}`, byMinute],
  ] as const) {
    await change(damage);
    expect([damage, (await rulesNamed()).toSorted()]).toEqual([damage, [...rules].toSorted()]);
    await change(
      ...TABLES.flatMap((name) => [
        `truncate views.${name}`,
        `insert into views.${name} table saved.${name}`,
      ]),
    );
  }
  expect(await compared()).toMatchObject({ violations: [] });
  await change(`update views.bookings set quantity = 9 where ${one}`);
  await using program = start("audit/main.ts", {
    CATALOG_URL: cluster.catalogUrl,
    READ_SIDE_DATABASE_URL: readSide.databaseUrl,
  });
  const { code, stdout } = await program.exited;
  expect([code, stdout]).toEqual([
    1,
    expect.stringMatching(/"shard":\{"quantity":2\},"readSide":\{"quantity":9\}/),
  ]);
  expect(stdout).toContain("audit failed, 3 offending rows: the read side, 16 bookings");
  await change(`update views.bookings set quantity = 2 where ${one}`, "drop schema saved cascade");
});

test("V13 V1 V4: under load, and while tables are exchanged, nothing is named that is right, and what is wrong is", async () => {
  const client = cluster.client();
  const events = await Promise.all(
    [1, 2, 3].map(async () => client.createEvent({ totalTickets: 20_000, maxPerUser: 9 })),
  );
  let isOver = false;
  const write = async (writer: number): Promise<void> => {
    for (let round = 0; !isOver; round += 1) {
      const [event, user] = [events[(writer + round) % 3]?.id ?? "", `writer ${writer} ${round}`];
      await client.book(event, user, 2);
      const { body: hold } = await client.hold(event, user, {
        quantity: 1,
        ttlSeconds: round % 7 === 0 ? 1 : 60,
      });
      await client.confirm(hold.id, user);
      if (round % 2 === 0) await client.cancel(hold.id, user);
      if (round % 5 === 0)
        await client.send("PATCH", `/v1/events/${event}`, {
          as: "op",
          role: "operator",
          body: { totalTickets: 20_000 + round },
        });
    }
  };
  const working = Promise.all([0, 1, 2, 3, 4, 5, 6, 7].map(write));
  const rebuilding = (async () => {
    const settings = {
      DATABASE_URL: readSide.databaseUrl,
      NODE_URLS: cluster.nodes[0]?.url,
      INTERNAL_TOKEN,
      LOG_LEVEL: "silent",
    };
    await rebuildOnce(readConfig(rebuildConfig, settings));
  })();
  const seen = [];
  for (let times = 0; times < 4; times += 1) seen.push(await compared());
  await rebuilding;
  expect(seen.flatMap(({ violations }) => violations)).toEqual([]);

  await administer(
    readSide.databaseUrl,
    "update views.events set available = available + 1000, version = version + 1000",
  );
  await administer(
    readSide.databaseUrl,
    "update views.bookings set quantity = quantity + 1 where user_id = 'writer 0 0'",
  );
  const named = await rulesNamed();
  isOver = true;
  await working;
  expect(named.toSorted()).toEqual(
    [
      "V1 a booking is what its shard says",
      "V1 an event is what its shard says",
      "V10 tickets and buyers are counted by status",
      "V10 tickets are counted by minute",
    ].toSorted(),
  );
  expect((seen.at(-1)?.bookings ?? 0) - (seen[0]?.bookings ?? 0)).toBeGreaterThan(0);
});

test("V13 V8: a read side that does not get what its shard has is named, and one without tables is said", async () => {
  await using database = await createEmptyDatabase();
  {
    await using stopped = await startTestReadSide(cluster.nodes, { DATABASE_URL: database.url });
    await stopped.ready();
  }
  const client = cluster.client();
  await client.book((await client.createEvent()).id, "ada");
  const { violations } = await auditReadSide(cluster.catalogUrl, database.url, { arrivalWaitMs: 100 });
  expect(violations).toMatchObject([
    { rule: "V1 the read side gets what its shard has", row: { position: expect.any(Number) } },
  ]);

  await using empty = await createEmptyDatabase();
  const env = { CATALOG_URL: cluster.catalogUrl, READ_SIDE_DATABASE_URL: empty.url };
  await using program = start("audit/main.ts", env);
  const { code, stdout, stderr } = await program.exited;
  expect([code, stdout, stderr]).toEqual([
    1,
    expect.stringMatching(/^audit clean: 2 shards/),
    "audit: the read side has no tables yet\n",
  ]);
});
