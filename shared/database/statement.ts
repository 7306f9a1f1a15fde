/** A statement, and how logs, traces and pg_stat_activity show it. */
import type { Span } from "../watch/tracing.ts";
import { serverOf } from "./url.ts";

export interface Statement {
  readonly name: string;
  /** Prepared once per connection. */
  readonly text: string;
}

/** The span of a statement (OpenTelemetry semantic conventions, database client spans). It never has the values. */
export function callSpan(url: string, { name, text }: Statement): Parameters<Span["child"]> {
  const { host, port, database } = serverOf(url);
  return [
    name,
    "client",
    {
      "db.system.name": "postgresql",
      "db.namespace": database,
      "db.query.summary": name,
      "db.query.text": text.trim(),
      "server.address": host,
      "server.port": port,
    },
  ];
}

const namedTexts = new WeakMap<Statement, string>();

/** The text begins with the statement's name: the driver names prepared statements itself, and its names say nothing. */
export function namedText(statement: Statement): string {
  let named = namedTexts.get(statement);
  if (named === undefined) {
    named = `/* ${statement.name} */ ${statement.text.trim()}`;
    namedTexts.set(statement, named);
  }
  return named;
}
