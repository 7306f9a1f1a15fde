/** Fresh databases for tests, cloned from the migrated templates of the test server. */
import { randomUUID } from "node:crypto";
import { inject } from "vitest";
import type { Schema } from "../../migrations/runner.ts";
import { Connection } from "../../shared/database/connection.ts";
import { Database, type DatabaseOptions, findPrimary } from "../../shared/database/database.ts";
import { type EventId, newEventId } from "../../shared/domain/ids.ts";
import { slotOf } from "../../shared/domain/slots.ts";

const CONNECT_TIMEOUT_MS = 5_000;
/** Longer than any test lets something wait for a lock. */
const STATEMENT_MS = 60_000;

/** What a server that a test starts calls the databases which tests clone. */
export const TEMPLATES: Readonly<Record<Schema, string>> = {
  shard: "shard_template",
  catalog: "catalog_template",
};

export interface TestDatabase extends AsyncDisposable {
  readonly url: string;
}

/** A database with the newest schema and no rows; dropped when disposed. */
export async function createDatabase(schema: Schema, server?: string): Promise<TestDatabase> {
  const templates = server === undefined ? inject("templates") : TEMPLATES;
  const options = `template ${templates[schema]} strategy file_copy`;
  return create(schema, options, server ?? inject("postgresUrl"));
}

/** A database without any schema; dropped when disposed. */
export async function createEmptyDatabase(server = inject("postgresUrl")): Promise<TestDatabase> {
  return create("empty", "", server);
}

async function create(prefix: string, options: string, server: string): Promise<TestDatabase> {
  const name = `${prefix}_${randomUUID().replaceAll("-", "")}`;
  await administer(server, `create database ${name} ${options}`);
  return {
    url: `${server}${name}`,
    [Symbol.asyncDispose]: async () => administer(server, `drop database if exists ${name} with (force)`),
  };
}

/** Runs one statement on a connection of its own: to the primary where the URL names several servers. */
export async function administer(server: string, statement: string): Promise<void> {
  const url = server.endsWith("/") ? `${server}postgres` : server;
  using connection = connectTo(await findPrimary(url, CONNECT_TIMEOUT_MS));
  await connection.run(statement);
}

/** Holds the lock of an event's row, as a stuck transaction would, until it is told to roll back or is disposed. */
export async function lockEvent(url: string, eventId: string): Promise<Connection> {
  const connection = connectTo(url);
  await connection.run("begin");
  await connection.run("select from events where id = $1 for update", [eventId]);
  return connection;
}

/** A connection that a test looks through, or holds locks with; closed when disposed. */
export function connectTo(url: string): Connection {
  return new Connection({ url, session: { application_name: "test" }, statementMs: STATEMENT_MS });
}

/** A pool whose bounds no test meets that does not set them. */
export function openDatabase(
  url: string,
  options: Partial<DatabaseOptions> = {},
): Database & AsyncDisposable {
  const timeouts = { connectTimeoutMs: 10_000, statementTimeoutMs: 30_000, lockTimeoutMs: 30_000 };
  const bounds = { connectionsMax: 2, waitersMax: 10, ...timeouts };
  const database = new Database({ url, applicationName: "test", ...bounds, ...options });
  return Object.assign(database, { [Symbol.asyncDispose]: async () => database.close() });
}

/** An event that is on sale, in a slot that the shard owns from now on. */
export async function storeEvent(url: string, totalTickets: number, maxPerUser = 2): Promise<EventId> {
  using connection = connectTo(url);
  const id = newEventId(Date.now());
  await connection.run("select acquire_slots(array[$1]::smallint[], 1)", [slotOf(id)]);
  const create =
    "select create_event($1, $2::smallint, 'Concert', null, now() + interval '1 day', null, null, $3, $4, now())";
  await connection.run(create, [id, slotOf(id), totalTickets, maxPerUser]);
  return id;
}
