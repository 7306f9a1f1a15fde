/**
 * Brings databases to the newest schema: numbered SQL files, forward only, each in a transaction of its own, and recorded
 * with its checksum in `schema_migrations`. A lock lets several start at once.
 */
import { createHash } from "node:crypto";
import { globSync, readFileSync } from "node:fs";
import { basename } from "node:path";
import { Connection } from "../shared/database/connection.ts";
import { findPrimary } from "../shared/database/database.ts";

const CONNECT_TIMEOUT_MS = 10_000;
/** For one file, and for the wait until another runner is done with one. */
const STATEMENT_MAX_MS = 600_000;

const TABLE = `
  create table if not exists schema_migrations (
    name       text primary key,
    checksum   text not null,
    applied_at timestamptz not null default now()
  )`;
// Held until the transaction ends, so it works behind a pooler that lends a connection for one transaction.
const ALONE = "select pg_advisory_xact_lock(hashtext('onsale: schema migrations'))";
// The development versions before this schema kept a table of the same name, without checksums.
const HISTORY = `
  select case when to_regclass('schema_migrations') is null then 'none'
              when exists (select from pg_attribute
                           where attrelid = to_regclass('schema_migrations') and attname = 'checksum') then 'ours'
              else 'earlier' end as history`;
const APPLIED = 'select name, checksum from schema_migrations order by name collate "C"';
const RECORD = "insert into schema_migrations (name, checksum) values ($1, $2)";

export type Schema = "catalog" | "shard";

interface Migration {
  readonly name: string;
  readonly sql: string;
  readonly checksum: string;
}

/**
 * Returns the names of the migrations that were new. Throws an Error that says what to do, and changes nothing, when the
 * database has another history than these files. `directory` is for tests.
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

/** Throws as `migrate` does when a database has another history; writes nothing. */
export async function checkHistory(databaseUrl: string, schema: Schema): Promise<void> {
  using connection = await connect(databaseUrl);
  await countApplied(connection, migrationsIn(`${import.meta.dirname}/${schema}`));
}

async function connect(databaseUrl: string): Promise<Connection> {
  return new Connection({
    url: await findPrimary(databaseUrl, CONNECT_TIMEOUT_MS),
    session: { application_name: "onsale-migrate", client_min_messages: "warning" },
    statementMs: STATEMENT_MAX_MS,
  });
}

/** How many of the migrations the database has. Throws unless these are the first ones, unchanged, and nothing else. */
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
      throw new Error(
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
