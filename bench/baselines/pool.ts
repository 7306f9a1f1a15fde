/** The pool of connections that every baseline uses. */
import { Connection, Refusal } from "../../shared/database/connection.ts";
import { ConnectionPool, PoolBusy } from "../../shared/database/pool.ts";

const CONNECT_MAX_MS = 5_000;
const STATEMENT_MAX_MS = 4_000;
/** Longer than PostgreSQL's own bounds, so PostgreSQL gives up first. */
const ANSWER_MAX_MS = STATEMENT_MAX_MS + 1_000;
/** Baselines take turns on one server with 50 connections, so an idle baseline holds none. */
const IDLE_MAX_MS = 1_000;

export type Pool = ConnectionPool<Connection>;

export function createPool(databaseUrl: string, connectionsMax: number): Pool {
  const settings = {
    url: databaseUrl,
    session: { application_name: "baseline", statement_timeout: String(STATEMENT_MAX_MS) },
    statementMs: ANSWER_MAX_MS,
  };
  return new ConnectionPool(
    { connectionsMax, waitMs: CONNECT_MAX_MS, idleMs: IDLE_MAX_MS },
    async () => new Connection(settings),
  );
}

/** Runs one statement on any connection. */
export async function query<Row extends object>(
  pool: Pool,
  text: string,
  values: readonly unknown[] = [],
): Promise<Row[]> {
  return withConnection(pool, async (connection) => connection.run<Row>(text, values));
}

/** Lends a connection to a task. */
export async function withConnection<Result>(
  pool: Pool,
  task: (connection: Connection) => Promise<Result>,
): Promise<Result> {
  const connection = await pool.take();
  try {
    return await task(connection);
  } finally {
    pool.giveBack(connection);
  }
}

/** Runs a task in a transaction. The task chooses between commit and rollback; if it throws, the transaction is rolled back. */
export async function inTransaction<Result>(
  pool: Pool,
  task: (connection: Connection) => Promise<{ result: Result; end: "commit" | "rollback" }>,
): Promise<Result> {
  return withConnection(pool, async (connection) => {
    try {
      await connection.run("begin");
      const { result, end } = await task(connection);
      await connection.run(end);
      return result;
    } catch (error) {
      // Closing the connection is the shortest rollback, and the only one that always works.
      connection.close(new Error("rolled back"));
      throw error;
    }
  });
}

/** Took too long (57014, 55P03), was the victim of a deadlock (40P01), or found no free connection: it had no effect. */
export function isOverload(error: unknown): boolean {
  if (error instanceof Refusal) return ["57014", "55P03", "40P01"].includes(error.sqlState);
  return error instanceof PoolBusy;
}
