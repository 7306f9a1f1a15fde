/** Connections to the read side's database. Each kind of work has its own, so no flood of one starves another. */
import { Database, type DatabaseObserver } from "../shared/database/database.ts";
import type { ReadSideConfig, RebuildConfig } from "./config.ts";

/** The bound of a look at the tables. */
const CHECK_TIMEOUT_MS = 1_000;

/**
 * Every statement finds its rows by an index, and its plan is kept as long as its connection: it must not be one that was
 * good for tables that were empty then. What is off makes a plan look dear, and PostgreSQL would compile it for seconds.
 */
const session = { enable_seqscan: "off", enable_hashjoin: "off", enable_mergejoin: "off", jit: "off" };

const common = (config: RebuildConfig) => ({
  url: config.DATABASE_URL,
  applicationName: "onsale read-side",
  waitersMax: config.POOL_WAITERS_MAX,
  connectTimeoutMs: config.CONNECT_TIMEOUT_MS,
  session,
});

/** For what has changed. */
export function writingDatabase(config: RebuildConfig, observer?: DatabaseObserver): Database {
  return new Database({
    ...common(config),
    connectionsMax: config.WRITE_CONNECTIONS,
    statementTimeoutMs: config.WRITE_TIMEOUT_MS,
    lockTimeoutMs: config.WRITE_TIMEOUT_MS,
    ...(observer === undefined ? {} : { observer }),
  });
}

/** Connects to nothing yet. */
export function createDatabases(config: ReadSideConfig, observer: DatabaseObserver) {
  const questions = (connectionsMax: number): Database =>
    new Database({
      ...common(config),
      connectionsMax,
      connectTimeoutMs: config.POOL_WAIT_MAX_MS,
      statementTimeoutMs: config.STATEMENT_TIMEOUT_MS,
      lockTimeoutMs: config.STATEMENT_TIMEOUT_MS,
      observer,
    });
  const writing = writingDatabase(config, observer);
  const lists = questions(config.LIST_CONNECTIONS);
  const reports = questions(config.REPORT_CONNECTIONS);
  const exports = questions(config.EXPORTS_MAX);
  const checks = new Database({
    ...common(config),
    connectionsMax: 1,
    statementTimeoutMs: CHECK_TIMEOUT_MS,
    lockTimeoutMs: CHECK_TIMEOUT_MS,
  });
  const all = [writing, lists, reports, exports, checks];
  const close = async (): Promise<void> => {
    await Promise.all(all.map(async (database) => database.close()));
  };
  return { writing, lists, reports, exports, checks, all, close };
}
