/**
 * Brings databases to the newest schema: numbered SQL files, forward only, each in a transaction and recorded in
 * `schema_migrations`. The only door to node-pg-migrate, which also holds an advisory lock, so that several may start at once.
 */
import { runner } from "node-pg-migrate";
import pg from "pg";
import { findPrimary } from "../shared/postgres.ts";

const CONNECT_TIMEOUT_MS = 10_000;

export type Schema = "catalog" | "shard";

/** Returns the names of the migrations that were new. */
export async function migrate(databaseUrl: string, schema: Schema): Promise<string[]> {
  const connectionString = await findPrimary(databaseUrl, CONNECT_TIMEOUT_MS);
  const client = new pg.Client({ connectionString, connectionTimeoutMillis: CONNECT_TIMEOUT_MS });
  await client.connect();
  try {
    const applied = await runner({
      dbClient: client,
      dir: `${import.meta.dirname}/${schema}`,
      migrationsTable: "schema_migrations",
      direction: "up",
      checkOrder: true,
      logger: { debug() {}, info() {}, warn: console.warn, error() {} },
    });
    return applied.map((migration) => migration.name);
  } finally {
    await client.end();
  }
}
