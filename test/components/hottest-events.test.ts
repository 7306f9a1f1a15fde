/** The one table of the dashboards, as Grafana asks for it: with the panel's own query, and a role without any right. */
import { randomUUID } from "node:crypto";
import { expect, inject, test } from "vitest";
import { DASHBOARDS } from "../../deploy/grafana/dashboards.ts";
import type { Connection } from "../../shared/database/connection.ts";
import { startTestCluster } from "../support/running-cluster.ts";
import { administer, connectTo } from "../support/databases.ts";

const tables = DASHBOARDS.flatMap(({ rows }) => rows.flatMap(({ panels }) => panels)).filter(
  (panel) => panel.kind === "table",
);

/** A role that may connect and nothing else, and a connection of it to a database. */
async function givenStranger(databaseUrl: string): Promise<{ connection: Connection } & AsyncDisposable> {
  const name = `stranger_${randomUUID().replaceAll("-", "")}`;
  await administer(inject("postgresUrl"), `create role ${name} login password 'looks-only'`);
  const url = new URL(databaseUrl);
  [url.username, url.password] = [name, "looks-only"];
  const connection = connectTo(url.href);
  return {
    connection,
    async [Symbol.asyncDispose]() {
      connection.close();
      await administer(inject("postgresUrl"), `drop role ${name}`);
    },
  };
}

test("W4: the table shows the stock of the events that are booked most, to a role that sees no user", async () => {
  await using cluster = await startTestCluster({ shards: 1 });
  const client = cluster.client();
  const databaseUrl = cluster.shards[0]?.databaseUrl ?? "";
  const [hot, warm, old] = [
    await client.createEvent({ name: "Hot", totalTickets: 50 }),
    await client.createEvent({ name: "Warm" }),
    await client.createEvent({ name: "Old" }),
  ];
  await client.createEvent({ name: "Cold" });
  for (let buyer = 0; buyer < 5; buyer += 1)
    expect((await client.book(hot.id, `user-${buyer}`, 2)).status).toBe(201);
  expect((await client.book(warm.id, "ada")).status).toBe(201);
  const booked = (await client.book(old.id, "ada")).body;
  // As if it had been booked two minutes ago: an id begins with the 48 bits of its milliseconds.
  const milliseconds = (Date.now() - 120_000).toString(16).padStart(12, "0");
  const before = `${milliseconds.slice(0, 8)}-${milliseconds.slice(8)}${booked.id.slice(13)}`;
  await administer(databaseUrl, `update bookings set id = '${before}' where id = '${booked.id}'`);

  await using stranger = await givenStranger(databaseUrl);
  expect(tables).toHaveLength(1);
  const rows = await stranger.connection.run(tables[0]?.sql ?? "");

  expect(rows).toEqual([
    {
      id: hot.id,
      name: "Hot",
      status: "on_sale",
      tickets_left: 40,
      tickets_total: 50,
      bookings_of_last_minute: 5,
      tickets_of_last_minute: 10,
    },
    {
      id: warm.id,
      name: "Warm",
      status: "on_sale",
      tickets_left: 99,
      tickets_total: 100,
      bookings_of_last_minute: 1,
      tickets_of_last_minute: 1,
    },
  ]);
  for (const table of ["events", "bookings"])
    await expect(stranger.connection.run(`select from ${table}`)).rejects.toThrow("permission denied");
});

test("W4: the table has ten rows at most, and finds the newest bookings through their ids", async () => {
  await using cluster = await startTestCluster({ shards: 1 });
  const client = cluster.client();
  const events = await Promise.all(Array.from({ length: 12 }, async () => client.createEvent()));
  for (const event of events) expect((await client.book(event.id, "ada")).status).toBe(201);

  await using database = await givenStranger(cluster.shards[0]?.databaseUrl ?? "");

  expect(await database.connection.run("select from hottest_events")).toHaveLength(10);
  await database.connection.run("set enable_seqscan = off");
  const rows = await database.connection.run<{ "QUERY PLAN": string }>(
    "explain select * from hottest_events",
  );
  expect(rows.map((row) => row["QUERY PLAN"]).join("\n")).toMatch(
    /Index Scan[^\n]* bookings_pkey [^\n]*\n\s+Index Cond: \(id >= /,
  );
});
