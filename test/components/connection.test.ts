/** One connection to PostgreSQL (shared/database/connection.ts): how it ends, several statements in one text, and values. */
import { createServer } from "node:net";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Connection, type ConnectionSettings, Refusal } from "../../shared/database/connection.ts";
import { createDatabase, openDatabase, type TestDatabase } from "../support/databases.ts";
import { listen } from "../support/listen.ts";
import { startFaultyProxy } from "./faulty-proxy.ts";

const SUICIDE = "select pg_terminate_backend(pg_backend_pid())";

let created: TestDatabase;

beforeAll(async () => {
  created = await createDatabase("catalog");
});
afterAll(async () => created[Symbol.asyncDispose]());

test("F1: a session that ends in the moment of its login is a fault of its statement and does not end the process", async () => {
  await using server = await startServerThatEndsSessions();
  await using database = openDatabase(server.url, { connectTimeoutMs: 1_000 });

  await expect(database.query({ name: "one", text: "select 1" })).rejects.toMatchObject({
    name: "DatabaseError",
    kind: "unreachable",
  });
});

test("F1: a text of several statements is one transaction, and what PostgreSQL refuses leaves nothing of it", async () => {
  using connection = given();
  await connection.script("create table first (n integer); insert into first values (1), (2)");

  const script = connection.script(
    "insert into first values (3); select 1 / 0; insert into first values (4)",
  );

  await expect(script).rejects.toMatchObject({ name: "Refusal", sqlState: "22012" });
  expect(connection.isClosed).toBe(false);
  expect(await connection.run("select n from first order by n")).toEqual([{ n: 1 }, { n: 2 }]);
});

test("F1: a connection that broke under a statement is closed, and nothing is sent on it again", async () => {
  await using proxy = await startFaultyProxy(created.url);
  using connection = given({ url: proxy.url });
  await connection.run("select 1");
  const intercepted = proxy.intercept("select 7");
  const cut = connection.run("select 7").catch((error: unknown) => error);

  (await intercepted).cut();

  expect(await cut).not.toBeInstanceOf(Refusal);
  expect(connection.isClosed).toBe(true);
  await expect(connection.run("select 1")).rejects.toThrow("Connection terminated unexpectedly");
});

test.each([
  { what: "a statement", start: (connection: Connection) => connection.run(SUICIDE) },
  {
    what: "a script",
    start: (connection: Connection) => connection.script(`select 1; ${SUICIDE}; select 2`),
  },
])(
  "F1: a fatal error under $what is told with its SQL state, and closes the connection",
  async ({ start }) => {
    using connection = given();

    await expect(start(connection)).rejects.toMatchObject({ name: "Refusal", sqlState: "57P01" });

    expect(connection.isClosed).toBe(true);
  },
);

test.each([
  { what: "a statement", start: (connection: Connection) => connection.run("select pg_sleep(60)") },
  { what: "a script", start: (connection: Connection) => connection.script("select 1; select pg_sleep(60)") },
])("F1: $what without an answer in time is given up, and the connection is closed", async ({ start }) => {
  using connection = given({ statementMs: 500 });

  await expect(start(connection)).rejects.toThrow("no answer within 500 ms");

  expect(connection.isClosed).toBe(true);
});

test("F1: an error in the middle of a result leaves no trace in the next one", async () => {
  using connection = given();
  const half = "select 1 / (n - 3000) from generate_series(1, 5000) n";
  await expect(connection.run(half)).rejects.toMatchObject({ sqlState: "22012" });

  expect(await connection.run("select n from generate_series(1, 3) n")).toEqual([
    { n: 1 },
    { n: 2 },
    { n: 3 },
  ]);
});

test.each([
  { type: "json", value: '{"a":"1"}', read: { a: "1" } },
  { type: "jsonb", value: { a: [1, null] }, read: { a: [1, null] } },
  { type: "boolean", value: true, read: true },
  { type: "boolean", value: "true", read: true },
  { type: "bigint", value: 9_007_199_254_740_993n, read: "9007199254740993" },
  { type: "double precision", value: 0.1, read: 0.1 },
  { type: "timestamptz", value: new Date(1.8e12), read: new Date(1.8e12) },
  { type: "text", value: "null", read: "null" },
  { type: "text", value: undefined, read: null },
  { type: "integer[]", value: [1, null, -3], read: [1, null, -3] },
  { type: "integer[]", value: [], read: [] },
  {
    type: "text[]",
    value: ['a"b', "c\\d", "e,f", "{g}", "", "NULL", null, "two\nlines"],
    read: ['a"b', "c\\d", "e,f", "{g}", "", "NULL", null, "two\nlines"],
  },
])("F1: $value goes to PostgreSQL as $type and comes back", async ({ type, value, read }) => {
  using connection = given();

  expect(await connection.run(`select $1::${type} as value`, [value])).toEqual([{ value: read }]);
});

function given(settings: Partial<ConnectionSettings> = {}): Connection {
  return new Connection({ url: created.url, session: {}, statementMs: 10_000, ...settings });
}

/** Lets a client in and ends the session in one segment, as a server does that is told to stop just then. */
async function startServerThatEndsSessions() {
  const fatal = "SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0";
  const ending = Buffer.concat([
    message("R", Buffer.alloc(4)), // authenticated
    message("Z", Buffer.from("I")), // ready for a query
    message("E", Buffer.from(fatal)),
  ]);
  const server = await listen(createServer((socket) => socket.once("data", () => socket.end(ending))));
  return { ...server, url: `postgres://user:password@127.0.0.1:${server.port}/database` };
}

/** PostgreSQL manual §54.7. */
function message(type: string, body: Buffer): Buffer {
  const head = Buffer.alloc(5, type);
  head.writeUInt32BE(body.length + 4, 1);
  return Buffer.concat([head, body]);
}
