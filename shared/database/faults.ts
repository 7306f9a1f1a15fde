/** How an error becomes a DatabaseError: did the statement take effect, and may its connection be used again? */
import { Refusal } from "./connection.ts";

/** The SQL state of a wait for a lock that took too long (PostgreSQL manual, appendix A, like all below). */
export const LOCK_NOT_AVAILABLE = "55P03";

/** SQL states that end the connection, so the fate of the statement is unknown: classes 57P and 08. */
const CONNECTION_ENDED = /^(57P0[1-5]|08)/;

/**
 * SQL states of a statement without effect whose connection is closed all the same. 25006: the server, or the
 * transaction, must not write. 25P04: the transaction took too long, and PostgreSQL ended the session.
 */
const GIVES_UP = new Set(["25006", "25P04"]);

/**
 * Why a statement gave no result.
 * - `busy`: no connection became free in time. The statement was not sent.
 * - `unreachable`: no connection could be made. The statement was not sent.
 * - `refused`: PostgreSQL answered with an error, named by `sqlState`. The statement took no effect.
 * - `lost`: the connection broke after the statement was sent. The statement may have taken effect.
 */
export class DatabaseError extends Error {
  override readonly name = "DatabaseError";
  readonly kind: "busy" | "unreachable" | "refused" | "lost";
  readonly sqlState: string | undefined;

  constructor(
    kind: DatabaseError["kind"],
    message: string,
    options: { sqlState?: string; cause?: unknown } = {},
  ) {
    super(message, { cause: options.cause });
    this.kind = kind;
    this.sqlState = options.sqlState;
  }

  /** The connection is of no more use, and perhaps neither is its server. */
  get spoilsConnection(): boolean {
    return this.kind === "lost" || GIVES_UP.has(this.sqlState ?? "");
  }
}

/** What went wrong with a statement that was sent. */
export function faultOf(cause: unknown): DatabaseError {
  const message = messageOf(cause);
  if (!(cause instanceof Refusal)) return new DatabaseError("lost", message, { cause });
  const kind = CONNECTION_ENDED.test(cause.sqlState) ? "lost" : "refused";
  return new DatabaseError(kind, message, { sqlState: cause.sqlState, cause });
}

/** True when PostgreSQL refused the values of a statement: class 22, data exception, or 23, constraint violation. */
export function isRefusedForContent(error: unknown): boolean {
  return error instanceof DatabaseError && error.kind === "refused" && /^2[23]/.test(error.sqlState ?? "");
}

export function messageOf(cause: unknown): string {
  // A refused connection to a host with several addresses arrives as an AggregateError with an empty message.
  if (cause instanceof AggregateError) return cause.errors.map(String).join("; ");
  return cause instanceof Error ? cause.message : String(cause);
}
