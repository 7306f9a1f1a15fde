/**
 * PostgreSQL, the only door to `pg` (why this driver: docs/decisions/0003-postgres-driver.md). Every statement is one
 * round trip on a pooled connection; every transaction is one statement that calls one function, so no connection is
 * ever left inside a transaction and no lock is held across the network. Routers do not import this module.
 */
import pg from "pg";

export interface DatabaseOptions {
  readonly url: string;
  /** Shown in `pg_stat_activity`. */
  readonly applicationName: string;
  /** Permits of the pool: connections that may be open, and so statements that may run, at once. */
  readonly connectionsMax: number;
  /** Statements that may wait for a connection; one more is refused at once. */
  readonly waitersMax: number;
  /** How long a statement waits for a connection, a new one included. */
  readonly connectTimeoutMs: number;
  /** How long PostgreSQL runs a statement before it cancels it, lock waits included. */
  readonly statementTimeoutMs: number;
  /** How long a statement waits for a row lock before PostgreSQL cancels it. */
  readonly lockTimeoutMs: number;
  readonly observer?: DatabaseObserver;
}

/** Told about every use of a connection, in seconds. */
export interface DatabaseObserver {
  waited(seconds: number): void;
  held(seconds: number): void;
}

export interface Statement {
  /** Prepared under this name once per connection. */
  readonly name: string;
  readonly text: string;
}

/**
 * Why a statement gave no result.
 * - `busy`: no connection in time; it was not sent.
 * - `unreachable`: no connection could be made; it was not sent.
 * - `refused`: PostgreSQL answered with an error, so it took no effect; `sqlState` says which.
 * - `lost`: the connection broke after it was sent, so it may have taken effect.
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
}

/** PostgreSQL gives up first; the client's own timer is for a server that no longer answers at all. */
const CLIENT_TIMEOUT_SLACK_MS = 1_000;

/** SQL states that end the connection: the statement's fate is unknown (PostgreSQL manual, appendix A, class 57P and 08). */
const CONNECTION_ENDED = /^(57P0[1-5]|08)/;

export class Database {
  readonly #pool: pg.Pool;
  readonly #options: DatabaseOptions;

  constructor(options: DatabaseOptions) {
    this.#options = options;
    this.#pool = new pg.Pool({
      connectionString: options.url,
      application_name: options.applicationName,
      max: options.connectionsMax,
      connectionTimeoutMillis: options.connectTimeoutMs,
      statement_timeout: options.statementTimeoutMs,
      lock_timeout: options.lockTimeoutMs,
      idle_in_transaction_session_timeout: options.statementTimeoutMs,
      query_timeout: options.statementTimeoutMs + CLIENT_TIMEOUT_SLACK_MS,
      keepAlive: true,
    });
    // An idle connection that breaks is dropped by the pool; without a listener Node would end the process.
    this.#pool.on("error", () => undefined);
  }

  /** Connections in use, open but idle, and statements that wait for one. */
  get pool(): { busy: number; idle: number; waiting: number } {
    const { totalCount, idleCount, waitingCount } = this.#pool;
    return { busy: totalCount - idleCount, idle: idleCount, waiting: waitingCount };
  }

  /**
   * Runs one statement and returns its rows; `noticed` hears what PostgreSQL says meanwhile (RAISE NOTICE). Throws only
   * DatabaseError.
   */
  async query<Row extends object>(
    statement: Statement,
    values: readonly unknown[] = [],
    noticed: (message: string | undefined) => void = ignore,
  ): Promise<Row[]> {
    if (this.#pool.waitingCount >= this.#options.waitersMax) {
      throw new DatabaseError("busy", `${this.#options.waitersMax} statements wait for a connection already`);
    }
    const asked = performance.now();
    const connection = await this.#connect();
    const started = performance.now();
    this.#options.observer?.waited((started - asked) / 1000);
    let broken: DatabaseError | undefined;
    const listener = (notice: { message?: string | undefined }) => noticed(notice.message);
    connection.on("notice", listener);
    try {
      const result = await connection.query<Row>({ ...statement, values: [...values] });
      return result.rows;
    } catch (error) {
      const fault = faultOf(error);
      if (fault.kind === "lost") broken = fault;
      throw fault;
    } finally {
      connection.off("notice", listener);
      connection.off("error", ignore);
      // A connection that failed is closed, never reused: its protocol state is unknown.
      connection.release(broken);
      this.#options.observer?.held((performance.now() - started) / 1000);
    }
  }

  /** Lets running statements finish, then closes all connections. */
  async close(): Promise<void> {
    await this.#pool.end();
  }

  async #connect(): Promise<pg.PoolClient> {
    try {
      const connection = await this.#pool.connect();
      // A connection that breaks in use reports it twice: as the statement's error, which matters, and as this event.
      connection.on("error", ignore);
      return connection;
    } catch (cause) {
      const message = cause instanceof Error ? cause.message : String(cause);
      // pg-pool's own word for "every connection stayed in use"; all others are about making a connection.
      const kind =
        message.includes("timeout exceeded when trying to connect") &&
        this.pool.idle === 0 &&
        this.pool.busy >= this.#options.connectionsMax
          ? "busy"
          : "unreachable";
      throw new DatabaseError(kind, message, { cause });
    }
  }
}

function ignore(): void {}

function faultOf(cause: unknown): DatabaseError {
  const message = cause instanceof Error ? cause.message : String(cause);
  if (cause instanceof pg.DatabaseError && cause.code !== undefined) {
    const kind = CONNECTION_ENDED.test(cause.code) ? "lost" : "refused";
    return new DatabaseError(kind, message, { sqlState: cause.code, cause });
  }
  return new DatabaseError("lost", message, { cause });
}
