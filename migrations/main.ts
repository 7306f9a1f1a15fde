/** `npm run migrate`: brings the catalog and all shards to the newest schema and registers the shards. Safe to repeat. */
import { ConfigError, readConfig } from "../shared/config.ts";
import { migrateConfig } from "./config.ts";
import { migrate } from "./runner.ts";
import { settleShards } from "./shards.ts";

try {
  const { CATALOG_URL, SHARD_URLS } = readConfig(migrateConfig, process.env);
  report("catalog", await migrate(CATALOG_URL, "catalog"));
  await Promise.all(
    SHARD_URLS.map(async (shard) => report(shard.id, await migrate(shard.databaseUrl, "shard"))),
  );
  for (const [id, slots] of await settleShards(CATALOG_URL, SHARD_URLS))
    console.log(`${id} owns ${slots} slots`);
} catch (error) {
  console.error(`migrate: ${error instanceof ConfigError ? error.message : describe(error)}`);
  process.exit(1);
}

function report(database: string, applied: string[]): void {
  console.log(applied.length === 0 ? `${database} is up to date` : `${database}: ${applied.join(", ")}`);
}

function describe(error: unknown): string {
  // A refused connection to a host with several addresses arrives as an AggregateError with an empty message.
  if (error instanceof AggregateError) return error.errors.map(String).join("; ");
  return error instanceof Error ? error.message : String(error);
}
