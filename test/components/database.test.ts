/**
 * What the one door to PostgreSQL promises (shared/database/database.ts), whatever driver is behind it: four kinds of fault, each
 * told apart, each leaving a pool that can be used, and none that hangs.
 */
import { createServer } from "node:net";
import getPort from "get-port";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { DatabaseError, DatabaseOptions } from "../../shared/database/database.ts";
import { connectTo, createDatabase, openDatabase, type TestDatabase } from "../support/databases.ts";
import { eventually } from "../support/eventually.ts";
import { listen } from "../support/listen.ts";
import { startFaultyProxy } from "./faulty-proxy.ts";

const ONE = { name: "one", text: "select 1 as one" };
const LOCK = { name: "lock", text: "select pg_advisory_xact_lock(1)" };

let created: TestDatabase;

beforeAll(async () => {
  created = await createDatabase("catalog");
});
afterAll(async () => created[Symbol.asyncDispose]());

test("F1: busy: a statement that gets no connection in time was not sent", async () => {
  await using database = given({ connectionsMax: 1, connectTimeoutMs: 1_000 });
  await using lock = await holdLock();
  const running = database.query(LOCK);
  await eventually("the only connection is in use", () => isBlocked());

  await expect(database.query(ONE)).rejects.toMatchObject({ kind: "busy" });

  await lock.release();
  await running;
  expect(await database.query(ONE)).toEqual([{ one: 1 }]);
});

test("F2: busy: one statement more than may wait is refused at once", async () => {
  await using database = given({ connectionsMax: 1, waitersMax: 1 });
  await using lock = await holdLock();
  const running = database.query(LOCK);
  await eventually("the only connection is in use", () => isBlocked());
  const waits = database.query(ONE);

  await expect(database.query(ONE)).rejects.toMatchObject({ kind: "busy" });

  expect(database.pool).toEqual({ busy: 1, idle: 0, waiting: 1 });
  await lock.release();
  await running;
  expect(await waits).toEqual([{ one: 1 }]);
  expect(database.pool).toEqual({ busy: 0, idle: 1, waiting: 0 });
});

test("F1: unreachable: nothing listens, the password is wrong, or there is no such database", async () => {
  const port = await getPort();
  for (const change of [{ port: String(port) }, { password: "wrong" }, { pathname: "/missing" }]) {
    const url = new URL(created.url);
    Object.assign(url, change);
    await using database = given({ url: url.href });
    await expect(database.query(ONE)).rejects.toMatchObject({ kind: "unreachable" });
  }
});

test("F1: unreachable: a server that accepts connections and then says nothing costs the connect timeout", async () => {
  await using silent = await startSilentServer();
  await using database = given({ url: silent.url, connectTimeoutMs: 200 });

  await expect(database.query(ONE)).rejects.toMatchObject({ kind: "unreachable" });

  expect(database.pool).toEqual({ busy: 0, idle: 0, waiting: 0 });
});

test("F1: unreachable: the pool recovers by itself when the server is back", async () => {
  await using proxy = await startFaultyProxy(created.url);
  await using database = given({ url: proxy.url });
  proxy.refuse();
  await expect(database.query(ONE)).rejects.toMatchObject({ kind: "unreachable" });

  proxy.accept();

  expect(await database.query(ONE)).toEqual([{ one: 1 }]);
});

test("F1: refused: PostgreSQL's own no carries its SQL state, and the connection is used again", async () => {
  await using database = given({ connectionsMax: 1 });
  const [before] = await database.query<{ pid: number }>(PID);

  const divided = database.query({ name: "divide", text: "select 1 / 0" });

  await expect(divided).rejects.toMatchObject({ kind: "refused", sqlState: "22012" });
  expect(await database.query(PID)).toEqual([before]);
});

test.each([
  { what: "statement timeout", options: { statementTimeoutMs: 500 }, sqlState: "57014" },
  { what: "lock timeout", options: { lockTimeoutMs: 500 }, sqlState: "55P03" },
])("F1: refused: the $what ends a statement that waits", async ({ options, sqlState }) => {
  await using database = given({ connectionsMax: 1, ...options });
  await using lock = await holdLock();

  await expect(database.query(LOCK)).rejects.toMatchObject({ kind: "refused", sqlState });

  await lock.release();
  expect(await database.query(LOCK)).toHaveLength(1);
});

test("F1: lost: the server process is killed under a statement", async () => {
  await using database = given({ connectionsMax: 1 });

  const suicide = database.query({ name: "die", text: "select pg_terminate_backend(pg_backend_pid())" });

  await expect(suicide).rejects.toMatchObject({ kind: "lost" });
  expect(await database.query(ONE)).toEqual([{ one: 1 }]);
});

test("F1: lost: the connection breaks under a statement", async () => {
  await using proxy = await startFaultyProxy(created.url);
  await using database = given({ url: proxy.url, connectionsMax: 1 });
  const intercepted = proxy.intercept("select 1");
  const cut = database.query(ONE).catch((error: unknown) => error);

  (await intercepted).cut();

  expect(((await cut) as DatabaseError).kind).toBe("lost");
  expect(await database.query(ONE)).toEqual([{ one: 1 }]);
});

test("F1: lost: a server that falls silent under a statement costs its timeout and a second, and nothing hangs", async () => {
  await using proxy = await startFaultyProxy(created.url);
  await using database = given({ url: proxy.url, connectionsMax: 1, statementTimeoutMs: 500 });
  const intercepted = proxy.intercept("select 1");
  const silent = database.query(ONE).catch((error: unknown) => error);
  await intercepted;

  expect(((await silent) as DatabaseError).kind).toBe("lost");

  expect(await database.query(ONE)).toEqual([{ one: 1 }]);
});

test("F1: a connection that breaks while it is idle is replaced without anybody noticing", async () => {
  await using database = given({ connectionsMax: 1 });
  const [idle] = await database.query<{ pid: number }>(PID);
  using admin = connectTo(created.url);
  await admin.run("select pg_terminate_backend($1)", [idle?.pid]);
  await eventually("the pool has dropped it", () => database.pool.idle === 0);

  const [next] = await database.query<{ pid: number }>(PID);

  expect(next?.pid).not.toBe(idle?.pid);
});

test("F5: close() lets running statements finish", async () => {
  const database = given({ connectionsMax: 1 });
  await using lock = await holdLock();
  const running = database.query(LOCK);
  await eventually("the statement runs", () => isBlocked());

  const closed = database.close();
  await lock.release();

  expect(await running).toHaveLength(1);
  await closed;
});

const PID = { name: "pid", text: "select pg_backend_pid() as pid" };

const given = ({ url = created.url, ...options }: Partial<DatabaseOptions>) => openDatabase(url, options);

/** Holds the lock that LOCK waits for. */
async function holdLock(): Promise<{ release(): Promise<void> } & AsyncDisposable> {
  const connection = connectTo(created.url);
  await connection.run("begin");
  await connection.run(LOCK.text);
  return {
    release: async () => void (await connection.run("rollback")),
    [Symbol.asyncDispose]: async () => connection.close(),
  };
}

async function isBlocked(): Promise<boolean> {
  using admin = connectTo(created.url);
  const blocked = await admin.run(
    "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
  );
  return blocked.length > 0;
}

async function startSilentServer() {
  const server = await listen(createServer());
  return { ...server, url: `postgres://nobody:nothing@127.0.0.1:${server.port}/nowhere` };
}
