/** Statements that take row locks. Each sets its own bounds for the wait. */
import type { Database, Statement } from "../../shared/database/database.ts";
import { invariant } from "../../shared/domain/invariant.ts";
import type { Span } from "../../shared/watch/tracing.ts";

/**
 * A call of a function as a statement with its own bounds, $1 and $2: a pooler that shares sessions drops the settings
 * that a connection was opened with. PostgreSQL evaluates the select list from left to right.
 */
export function bounded(name: string, call: string): Statement {
  return {
    name,
    text: `select set_config('lock_timeout', $1, true), set_config('transaction_timeout', $2, true), ${call} as result`,
  };
}

/** `lockWaitMs` is another bound for the wait for a lock. */
export function boundsOf({ bounds }: Database, lockWaitMs = bounds.lockTimeoutMs): [string, string] {
  return [String(lockWaitMs), String(bounds.transactionTimeoutMs)];
}

/** Runs a statement that answers exactly one row. */
export async function oneRow<Row extends object>(
  database: Database,
  statement: Statement,
  values: readonly unknown[],
  span?: Span,
  noticed?: (message: string | undefined) => void,
): Promise<Row> {
  const [row] = await database.query<Row>(statement, values, noticed, span);
  invariant(row !== undefined, "the statement answers one row", { statement: statement.name });
  return row;
}
