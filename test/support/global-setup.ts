/**
 * One real PostgreSQL server for all tests, with a migrated template of each database that tests clone, and one real
 * Redis where `redis-server` or `valkey-server` is installed.
 */
import type { TestProject } from "vitest/node";
import { chooseFreePort } from "../../deploy/embedded/ports.ts";
import { startPostgresServer } from "../../deploy/embedded/postgres-server.ts";
import { migrate, type Schema } from "../../migrations/runner.ts";
import { TEMPLATES } from "./databases.ts";
import { findRedisServer, startRedisServer } from "./redis.ts";

declare module "vitest" {
  interface ProvidedContext {
    /** The test server's URL without a database, ending in a slash. */
    postgresUrl: string;
    /** The databases of that server which tests clone. */
    templates: Readonly<Record<Schema, string>>;
    /** Null where no Redis server is installed; tests that need it say that they skip. */
    redisUrl: string | null;
  }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  // A cluster holds some twenty connections, and test files run side by side.
  const postgres = await startPostgresServer({ databases: Object.values(TEMPLATES), connectionsMax: 300 });
  await migrate(postgres.url(TEMPLATES.shard), "shard");
  await migrate(postgres.url(TEMPLATES.catalog), "catalog");
  project.provide("postgresUrl", postgres.url(""));
  project.provide("templates", TEMPLATES);

  const port = await chooseFreePort(new Set([postgres.port]));
  const redis = findRedisServer() === undefined ? undefined : await startRedisServer(port);
  if (redis === undefined)
    console.warn("SKIPPED: tests that need Redis (no redis-server or valkey-server on PATH)");
  project.provide("redisUrl", redis === undefined ? null : `redis://127.0.0.1:${port}`);

  return async () => {
    await redis?.[Symbol.asyncDispose]();
    await postgres.stop();
  };
}
