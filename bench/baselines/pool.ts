/** Connections to PostgreSQL, as every baseline has them. */
import pg from "pg";

const CONNECT_MAX_MS = 5_000;
const STATEMENT_MAX_MS = 4_000;
/** Baselines take turns on one server, which has 50 connections for all of them: who is idle holds none. */
const IDLE_MAX_MS = 1_000;

export function createPool(databaseUrl: string, connectionsMax: number): pg.Pool {
  const pool = new pg.Pool({
    connectionString: databaseUrl,
    max: connectionsMax,
    idleTimeoutMillis: IDLE_MAX_MS,
    connectionTimeoutMillis: CONNECT_MAX_MS,
    statement_timeout: STATEMENT_MAX_MS,
    keepAlive: true,
  });
  // A connection that breaks fails its statement and is dropped by the pool; without these Node would end the process.
  pool.on("error", () => undefined);
  pool.on("connect", (connection) => connection.on("error", () => undefined));
  return pool;
}

/** Took too long (57014, 55P03), was the victim of a deadlock (40P01), or found no free connection: it had no effect. */
export function isOverload(error: unknown): boolean {
  if (error instanceof pg.DatabaseError) return ["57014", "55P03", "40P01"].includes(error.code ?? "");
  // pg-pool's own words; it has no code for it.
  return error instanceof Error && error.message.includes("timeout exceeded when trying to connect");
}
