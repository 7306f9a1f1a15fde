/** The migration runner, and the schema that it makes. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { dumpSchema } from "../../migrations/dump.ts";
import { checkHistory, migrate, type Schema } from "../../migrations/runner.ts";
import { eventually } from "../support/eventually.ts";
import { administer, connectTo, createDatabase, createEmptyDatabase } from "../support/databases.ts";

const CHECKOUT = join(import.meta.dirname, "..", "..");

test.for(["catalog", "shard"] satisfies Schema[])(
  "G3: the schema of a %s is the one that migrations/*/schema.sql shows",
  async (schema) => {
    await using database = await createDatabase(schema);

    await expect(await dumpSchema(database.url)).toMatchFileSnapshot(
      join(CHECKOUT, "migrations", schema, "schema.sql"),
      "the migrations make another schema; look at the difference, then: npx vitest run test/components/migrations.test.ts -u",
    );
  },
);

test("G3: no function of a shard that forbids plans has its statements compiled for their high costs", async () => {
  await using database = await createDatabase("shard");
  using shard = connectTo(database.url);
  const functions = await shard.run<{ name: string; compiles: boolean }>(
    `select proname as name, not 'jit=off' = any(proconfig) as compiles from pg_proc
     where proconfig @> array['enable_seqscan=off']`,
  );

  expect(functions.map(({ name }) => name)).toContain("decide_batch");
  expect(functions.filter(({ compiles }) => compiles)).toEqual([]);
});

test("G1: several that migrate at once apply each file once, in order", async () => {
  await using database = await createEmptyDatabase();
  using directory = migrationsOf({
    "0001_first.sql": "select pg_advisory_xact_lock(1); create table firsts (id integer);",
    "0002_second.sql": "insert into firsts values (2); create table seconds as select * from firsts;",
  });
  using gate = connectTo(database.url);
  await gate.run("select pg_advisory_lock(1)");

  const migrating = Promise.all(
    Array.from({ length: 4 }, async () => migrate(database.url, "shard", directory.path)),
  );
  // One in its first file, the others for that one; or all in their first file, if nobody waited for anybody.
  await eventually("all four have begun", async () => {
    const waiting = `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`;
    return (await gate.run(waiting)).length === 4;
  });
  await gate.run("select pg_advisory_unlock(1)");
  const applied = await migrating;

  expect(applied.flat().toSorted()).toEqual(["0001_first", "0002_second"]);
  expect(await migrate(database.url, "shard", directory.path)).toEqual([]);
  directory.write("0003_third.sql", "drop table seconds;");
  expect(await migrate(database.url, "shard", directory.path)).toEqual(["0003_third"]);
});

test("G1: a file that fails leaves nothing of itself, and the files before it stay", async () => {
  await using database = await createEmptyDatabase();
  using directory = migrationsOf({
    "0001_first.sql": "create table firsts (id integer);",
    "0002_second.sql": "create table seconds (id integer); select 1 / 0;",
  });

  await expect(migrate(database.url, "shard", directory.path)).rejects.toThrow("division by zero");

  expect(await dumpSchema(database.url)).toBe("create table firsts (\n  id integer\n);\n");
  directory.write("0002_second.sql", "create table seconds (id integer);");
  expect(await migrate(database.url, "shard", directory.path)).toEqual(["0002_second"]);
});

test("G1: a file that was changed after it was applied is refused by its name", async () => {
  await using database = await createEmptyDatabase();
  using directory = migrationsOf({ "0001_first.sql": "create table firsts (id integer);" });
  await migrate(database.url, "shard", directory.path);

  directory.write("0001_first.sql", "create table firsts (id bigint);");
  directory.write("0002_second.sql", "create table seconds (id integer);");

  await expect(migrate(database.url, "shard", directory.path)).rejects.toThrow(
    /^the migration 0001_first was applied with other content/,
  );
  expect(await dumpSchema(database.url)).not.toContain("seconds");
});

test("G2: a migration that this version does not know is refused by its name", async () => {
  await using database = await createDatabase("shard");
  await administer(database.url, "insert into schema_migrations (name, checksum) values ('0900_future', '')");

  await expect(migrate(database.url, "shard")).rejects.toThrow(
    /^this database has the migration 0900_future/,
  );
  await expect(checkHistory(database.url, "shard")).rejects.toThrow("0900_future");
});

test("G2: a database of an earlier development version is refused with what to do, and nothing in it is touched", async () => {
  await using database = await createEmptyDatabase();
  using connection = connectTo(database.url);
  await connection.script(
    `create table schema_migrations (id serial primary key, name varchar(255) not null, run_on timestamp not null);
     insert into schema_migrations (name, run_on) values ('0001_schema', now()), ('0002_booking-functions', now());
     create table events (id uuid primary key, total_tickets integer)`,
  );
  const before = await dumpSchema(database.url);

  await expect(migrate(database.url, "shard")).rejects.toThrow(
    "this database was made by an earlier development version, whose schema cannot be upgraded; " +
      "keep it with that version, or start with a new database",
  );

  expect(await dumpSchema(database.url)).toBe(before);
});

/** A directory of migrations. */
function migrationsOf(files: Readonly<Record<string, string>>) {
  const path = mkdtempSync(join(tmpdir(), "onsale-migrations-"));
  const write = (name: string, sql: string) => writeFileSync(join(path, name), sql);
  for (const [name, sql] of Object.entries(files)) write(name, sql);
  return { path, write, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}
