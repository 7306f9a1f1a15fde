/** `npm run migrate`: migrates the catalog and all shards, and registers the shards. It may run again at any time. */
import { setTimeout as sleep } from "node:timers/promises";
import { ConfigError, readConfig } from "../shared/process/config.ts";
import { migrateConfig } from "./config.ts";
import { checkHistory, migrate, NewerSchema, NotYetThere, type Schema } from "./runner.ts";
import { settleShards } from "./shards.ts";

const ASK_AGAIN_MS = 1_000;

interface Database {
  readonly id: string;
  readonly databaseUrl: string;
  readonly schema: Schema;
}

try {
  const { CATALOG_URL, SHARD_URLS, WAIT_SECONDS, NEWER_SCHEMA } = readConfig(migrateConfig, process.env);
  const catalog = { id: "catalog", databaseUrl: CATALOG_URL, schema: "catalog" } as const;
  const shards = SHARD_URLS.map((shard) => ({ ...shard, schema: "shard" }) as const);
  // Check all databases first: if one must be refused, none is changed.
  const until = performance.now() + WAIT_SECONDS * 1_000;
  const newer: string[] = [];
  await forEach([catalog, ...shards], async (database) => {
    try {
      await check(database, until);
    } catch (error) {
      if (!(error instanceof NewerSchema) || NEWER_SCHEMA === "refuse") throw error;
      newer.push(database.id);
    }
  });
  if (newer.length > 0) {
    console.log(`${newer.join(", ")}: the schema is newer than this version's; nothing is changed`);
  } else {
    await forEach([catalog], applyTo);
    await forEach(shards, applyTo);
    for (const [id, slots] of await settleShards(CATALOG_URL, SHARD_URLS))
      console.log(`${id} owns ${slots} slots`);
  }
} catch (error) {
  console.error(`migrate: ${error instanceof ConfigError ? error.message : describe(error)}`);
  process.exit(1);
}

/** Asks again while the database is not there yet. */
async function check({ id, databaseUrl, schema }: Database, until: number): Promise<void> {
  let said = "";
  for (;;) {
    try {
      await checkHistory(databaseUrl, schema);
      return;
    } catch (error) {
      if (!(error instanceof NotYetThere) || performance.now() >= until) throw error;
      if (error.message !== said) console.log(`waiting for ${id}: ${error.message}`);
      said = error.message;
    }
    await sleep(ASK_AGAIN_MS);
  }
}

async function applyTo({ id, databaseUrl, schema }: Database): Promise<void> {
  const applied = await migrate(databaseUrl, schema);
  console.log(applied.length === 0 ? `${id} is up to date` : `${id}: ${applied.join(", ")}`);
}

/** Waits for all, then throws the first error, with the database's name. */
async function forEach(
  databases: readonly Database[],
  task: (database: Database) => Promise<void>,
): Promise<void> {
  const results = await Promise.allSettled(databases.map(task));
  for (const [index, result] of results.entries()) {
    if (result.status === "rejected")
      throw new Error(`${databases[index]?.id}: ${describe(result.reason)}`, { cause: result.reason });
  }
}

function describe(error: unknown): string {
  // When a host has several addresses, Node reports a refused connection as an AggregateError without a message.
  if (error instanceof AggregateError) return error.errors.map(String).join("; ");
  return error instanceof Error ? error.message : String(error);
}
