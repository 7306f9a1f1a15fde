/** `npm run migrate`: migrates the catalog and all shards, and registers the shards. It may run again at any time. */
import { ConfigError, readConfig } from "../shared/process/config.ts";
import { migrateConfig } from "./config.ts";
import { checkHistory, migrate, type Schema } from "./runner.ts";
import { settleShards } from "./shards.ts";

interface Database {
  readonly id: string;
  readonly databaseUrl: string;
  readonly schema: Schema;
}

try {
  const { CATALOG_URL, SHARD_URLS } = readConfig(migrateConfig, process.env);
  const catalog = { id: "catalog", databaseUrl: CATALOG_URL, schema: "catalog" } as const;
  const shards = SHARD_URLS.map((shard) => ({ ...shard, schema: "shard" }) as const);
  // Check all databases first: if one must be refused, none is changed.
  await forEach([catalog, ...shards], async (each) => checkHistory(each.databaseUrl, each.schema));
  await forEach([catalog], applyTo);
  await forEach(shards, applyTo);
  for (const [id, slots] of await settleShards(CATALOG_URL, SHARD_URLS))
    console.log(`${id} owns ${slots} slots`);
} catch (error) {
  console.error(`migrate: ${error instanceof ConfigError ? error.message : describe(error)}`);
  process.exit(1);
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
