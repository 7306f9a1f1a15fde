/**
 * Migrates databases by numbered SQL files, forward only. Each runs in its own transaction, and `schema_migrations` keeps
 * its checksum. A lock makes it safe to start several at once.
 */
import { createHash } from "node:crypto";
import { globSync, readFileSync } from "node:fs";
import { basename } from "node:path";
import { Connection } from "../shared/database/connection.ts";
import { findPrimary } from "../shared/database/database.ts";
import { messageOf } from "../shared/database/faults.ts";

const CONNECT_TIMEOUT_MS = 10_000;
/** For one file, or for another runner to finish one. */
const STATEMENT_MAX_MS = 600_000;

const TABLE = `
  create table if not exists schema_migrations (
    name       text primary key,
    checksum   text not null,
    applied_at timestamptz not null default now()
  )`;
// A lock of the transaction, not of the session: a pooler may lend a connection for one transaction only.
const ALONE = "select pg_advisory_xact_lock(hashtext('onsale: schema migrations'))";
// Development versions before 0.1.0 had a table of the same name, without checksums.
const HISTORY = `
  select case when to_regclass('schema_migrations') is null then 'none'
              when exists (select from pg_attribute
                           where attrelid = to_regclass('schema_migrations') and attname = 'checksum') then 'ours'
              else 'earlier' end as history`;
const APPLIED = 'select name, checksum from schema_migrations order by name collate "C"';
const RECORD = "insert into schema_migrations (name, checksum) values ($1, $2)";

export type Schema = "catalog" | "shard";

/** The database has all migrations of this version, and more. */
export class NewerSchema extends Error {
  override readonly name = "NewerSchema";
}

/** The database did not answer, or does not let us in, maybe because it is only just being made. */
export class NotYetThere extends Error {
  override readonly name = "NotYetThere";
}

interface Migration {
  readonly name: string;
  readonly sql: string;
  readonly checksum: string;
}

/**
 * Returns the names of the migrations that it applied. When the database has another history than these files, it changes
 * nothing and throws an Error that says what to do. Tests give `directory`.
 */
export async function migrate(
  databaseUrl: string,
  schema: Schema,
  directory = `${import.meta.dirname}/${schema}`,
): Promise<string[]> {
  using connection = await connect(databaseUrl);
  const migrations = migrationsIn(directory);
  const applied: string[] = [];
  for (;;) {
    // A failure ends the connection, and the transaction with it.
    await connection.run("begin");
    await connection.run(ALONE);
    const next = migrations[await countApplied(connection, migrations)];
    if (next === undefined) break;
    await connection.run(TABLE);
    await connection.script(next.sql);
    await connection.run(RECORD, [next.name, next.checksum]);
    await connection.run("commit");
    applied.push(next.name);
  }
  return applied;
}

/** Throws as `migrate` does when a database has another history, and NotYetThere when it cannot be asked. Writes nothing. */
export async function checkHistory(databaseUrl: string, schema: Schema): Promise<void> {
  using connection = await connect(databaseUrl);
  await connection.run("select", [], undefined, CONNECT_TIMEOUT_MS).catch((cause: unknown) => {
    throw new NotYetThere(messageOf(cause), { cause });
  });
  await countApplied(connection, migrationsIn(`${import.meta.dirname}/${schema}`));
}

async function connect(databaseUrl: string): Promise<Connection> {
  const url = await findPrimary(databaseUrl, CONNECT_TIMEOUT_MS).catch((cause: unknown) => {
    throw new NotYetThere(messageOf(cause), { cause });
  });
  return new Connection({
    url,
    session: { application_name: "onsale-migrate", client_min_messages: "warning" },
    statementMs: STATEMENT_MAX_MS,
  });
}

/** How many of the migrations the database has. Throws unless they are exactly the first ones, unchanged. */
async function countApplied(connection: Connection, migrations: readonly Migration[]): Promise<number> {
  const [found] = await connection.run<{ history: "none" | "ours" | "earlier" }>(HISTORY);
  if (found?.history === "none") return 0;
  if (found?.history !== "ours")
    throw new Error(
      "this database was made by an earlier development version, whose schema cannot be upgraded; " +
        "keep it with that version, or start with a new database",
    );
  const applied = await connection.run<{ name: string; checksum: string }>(APPLIED);
  for (const [index, { name, checksum }] of applied.entries()) {
    const file = migrations[index];
    if (file?.name !== name)
      throw new (file === undefined ? NewerSchema : Error)(
        `this database has the migration ${name}, which this version does not have in that place; ` +
          "use the version that made it, or a newer one",
      );
    if (file.checksum !== checksum)
      throw new Error(
        `the migration ${name} was applied with other content than its file has now; ` +
          "restore the file, and put what is new into a new one",
      );
  }
  return applied.length;
}

function migrationsIn(directory: string): Migration[] {
  return globSync(`${directory}/[0-9][0-9][0-9][0-9]_*.sql`)
    .toSorted()
    .map((file) => {
      const sql = readFileSync(file, "utf8");
      return { name: basename(file, ".sql"), sql, checksum: createHash("sha256").update(sql).digest("hex") };
    });
}
