/**
 * PostgreSQL, the only door to `pg` (why this driver: docs/decisions/0003-postgres-driver.md). Every statement is one
 * round trip on a pooled connection; every transaction is one statement that calls one function, so no connection is
 * ever left inside a transaction and no lock is held across the network. Routers do not import this module.
 */
import pg from "pg";
import { serverName, serverUrls } from "./database-url.ts";
import { PrimarySearch, type ServerState } from "./primary-search.ts";
import type { Span } from "./tracing.ts";

export interface DatabaseOptions {
  /** May name several servers (shared/database-url.ts); the one that accepts writes is used. */
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
  /** Connections stay open while nobody uses them, because something of their session must last; else for ten seconds. */
  readonly keepsIdle?: boolean;
  /** Nothing is ever written here, so a replica will do and servers are not asked what they are. */
  readonly readOnly?: boolean;
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

/** The SQL state of a lock that was waited for too long (PostgreSQL manual, appendix A). */
export const LOCK_NOT_AVAILABLE = "55P03";

/** SQL states that end the connection: the statement's fate is unknown (PostgreSQL manual, appendix A, class 57P and 08). */
const CONNECTION_ENDED = /^(57P0[1-5]|08)/;

/**
 * SQL states after which the connection is given up although PostgreSQL said that it did nothing (manual, appendix A):
 * the server, or the transaction, must not write; the transaction took too long, and the session was ended with it.
 */
const GIVES_UP = new Set(["25006", "25P04"]);

/** Asked on each new connection. The first eight digits of a WAL file's name are its timeline. */
const SERVER_STATE: Statement = {
  name: "server-state",
  text: `
    select not (pg_is_in_recovery() or current_setting('transaction_read_only')::boolean) as writable,
           case when pg_is_in_recovery() then 0
                else ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer end as timeline`,
};

/** One server of a database and the connections to it. */
class Server {
  readonly url: string;
  readonly pool: pg.Pool;
  /** Connections that were asked what their server is, and have not lost that trust since. */
  readonly #trusted = new WeakMap<pg.PoolClient, number>();
  #era = 0;

  constructor(url: string, pool: pg.Pool) {
    this.url = url;
    this.pool = pool;
  }

  trust(connection: pg.PoolClient): void {
    this.#trusted.set(connection, this.#era);
  }

  /** `new` was never trusted; `old` was, before something happened that all connections to the server may share. */
  trustIn(connection: pg.PoolClient): "trusted" | "new" | "old" {
    const era = this.#trusted.get(connection);
    return era === undefined ? "new" : era === this.#era ? "trusted" : "old";
  }

  distrust(): void {
    this.#era += 1;
  }
}

export class Database {
  readonly #servers: readonly Server[];
  readonly #search: PrimarySearch;
  readonly #options: DatabaseOptions;
  /** Where the primary was when it was last looked for; undefined when it has to be looked for again. */
  #primary: Server | undefined;
  /** Statements that wait until it is found. */
  #searchers = 0;

  constructor(options: DatabaseOptions) {
    const urls = serverUrls(options.url);
    if (urls.length === 0)
      throw new Error("the URL of a database is not of the form postgres://host/database");
    this.#options = options;
    this.#servers = urls.map((url) => new Server(url, this.#poolOf(url)));
    if (this.#servers.length === 1) [this.#primary] = this.#servers;
    this.#search = new PrimarySearch(urls, async (url) => askServer(url, options.connectTimeoutMs / 2));
  }

  /** Connections in use, open but idle, and statements that wait for one. */
  get pool(): { busy: number; idle: number; waiting: number } {
    const sum = (count: (pool: pg.Pool) => number) =>
      this.#servers.reduce((total, { pool }) => total + count(pool), 0);
    return {
      busy: sum(({ totalCount, idleCount }) => totalCount - idleCount),
      idle: sum(({ idleCount }) => idleCount),
      waiting: sum(({ waitingCount }) => waitingCount) + this.#searchers,
    };
  }

  /**
   * Runs one statement and returns its rows; `noticed` hears what PostgreSQL says meanwhile (RAISE NOTICE), and `span` is
   * the work that the statement is part of. Throws only DatabaseError.
   */
  async query<Row extends object>(
    statement: Statement,
    values: readonly unknown[] = [],
    noticed: (message: string | undefined) => void = ignore,
    span?: Span,
  ): Promise<Row[]> {
    if (this.pool.waiting >= this.#options.waitersMax) {
      throw new DatabaseError("busy", `${this.#options.waitersMax} statements wait for a connection already`);
    }
    const asked = performance.now();
    const { server, connection } = await this.#connect();
    const started = performance.now();
    this.#options.observer?.waited((started - asked) / 1000);
    let broken: DatabaseError | undefined;
    const listener = (notice: { message?: string | undefined }) => noticed(notice.message);
    connection.on("notice", listener);
    const call = span?.child(...callSpan(server.url, statement));
    try {
      const result = await connection.query<Row>({ ...statement, values: [...values] });
      return result.rows;
    } catch (error) {
      const fault = faultOf(error);
      if (fault.kind === "lost" || GIVES_UP.has(fault.sqlState ?? "")) {
        broken = fault;
        this.#leave(server);
      }
      call?.failed(fault.sqlState ?? fault.kind);
      throw fault;
    } finally {
      call?.end();
      connection.off("notice", listener);
      // A connection that failed is closed, never reused: its protocol state is unknown.
      release(connection, broken);
      this.#options.observer?.held((performance.now() - started) / 1000);
    }
  }

  /** The newest timeline of its servers that is known here (shared/primary-search.ts); 0 before the first connection. */
  get timeline(): number {
    return this.#search.newestTimeline;
  }

  /** Refuses servers of older timelines from now on, and those that were trusted before are asked again. */
  refuseBefore(timeline: number): void {
    if (!this.#search.learn(timeline)) return;
    for (const server of this.#servers) this.#leave(server);
  }

  /**
   * Looks whether another server has become the primary: the one that it replaced works on, if nobody stops it, and says
   * nothing. Never throws, and takes half of `connectTimeoutMs` at most.
   */
  async lookForSuccessor(): Promise<void> {
    if (this.#servers.length > 1) this.refuseBefore(await this.#search.newestBeside(this.#primary?.url));
  }

  /** For a transaction that bounds itself, behind a pooler that drops what this connection was opened with. */
  get bounds(): { lockTimeoutMs: number; transactionTimeoutMs: number } {
    const { lockTimeoutMs, statementTimeoutMs } = this.#options;
    // After the statement's own timeout, where that is in force: it ends the session, too. Before the client gives up.
    return { lockTimeoutMs, transactionTimeoutMs: Math.round(statementTimeoutMs + this.#slackMs / 2) };
  }

  /** How much longer than PostgreSQL the client waits. */
  get #slackMs(): number {
    return Math.min(CLIENT_TIMEOUT_SLACK_MS, this.#options.statementTimeoutMs);
  }

  /** Lets running statements finish, then closes all connections. */
  async close(): Promise<void> {
    await Promise.all(this.#servers.map(async ({ pool }) => pool.end()));
  }

  /** A connection to the primary. A new one was asked whether its server is that (SERVER_STATE). */
  async #connect(): Promise<{ server: Server; connection: pg.PoolClient }> {
    // Not awaited when it is known: the statement has its place among those that wait before the next one is asked for.
    const server = this.#primary ?? (await this.#findPrimary());
    for (;;) {
      const connection = await this.#connectTo(server);
      const trust = server.trustIn(connection);
      if (trust === "trusted" || (trust === "new" && this.#options.readOnly === true))
        return { server, connection };
      if (trust === "old") {
        release(connection, new Error("its server may have changed"));
        continue; // at most connectionsMax of them
      }
      try {
        const { rows } = await connection.query<ServerState>({ ...SERVER_STATE });
        const [state] = rows;
        const objection = state === undefined ? "does not say what it is" : this.#search.objectionTo(state);
        if (objection !== undefined) throw new Error(`${serverName(server.url)} ${objection}`);
        server.trust(connection);
        return { server, connection };
      } catch (cause) {
        const fault = new DatabaseError("unreachable", messageOf(cause), { cause });
        release(connection, fault);
        this.#leave(server);
        throw fault;
      }
    }
  }

  async #findPrimary(): Promise<Server> {
    this.#searchers += 1;
    try {
      const url = await this.#search.find();
      const found = this.#servers.find((server) => server.url === url);
      if (found === undefined) throw new Error("the primary is one of the servers");
      return (this.#primary = found);
    } catch (cause) {
      throw new DatabaseError("unreachable", messageOf(cause), { cause });
    } finally {
      this.#searchers -= 1;
    }
  }

  /** What happened to one connection may have happened to the server: others are closed, and the primary is searched. */
  #leave(server: Server): void {
    server.distrust();
    if (this.#primary === server && this.#servers.length > 1) this.#primary = undefined;
  }

  async #connectTo(server: Server): Promise<pg.PoolClient> {
    try {
      const connection = await server.pool.connect();
      // A connection that breaks in use reports it twice: as the statement's error, which matters, and as this event.
      connection.on("error", ignore);
      return connection;
    } catch (cause) {
      const message = messageOf(cause);
      const { totalCount, idleCount } = server.pool;
      // pg-pool's own word for "every connection stayed in use"; all others are about making a connection.
      const busy =
        message.includes("timeout exceeded when trying to connect") &&
        idleCount === 0 &&
        totalCount >= this.#options.connectionsMax;
      if (!busy) this.#leave(server);
      throw new DatabaseError(busy ? "busy" : "unreachable", message, { cause });
    }
  }

  #poolOf(url: string): pg.Pool {
    const options = this.#options;
    const pool = new pg.Pool({
      connectionString: url,
      application_name: options.applicationName,
      max: options.connectionsMax,
      connectionTimeoutMillis: options.connectTimeoutMs,
      statement_timeout: options.statementTimeoutMs,
      lock_timeout: options.lockTimeoutMs,
      idle_in_transaction_session_timeout: options.statementTimeoutMs,
      query_timeout: options.statementTimeoutMs + this.#slackMs,
      keepAlive: true,
      ...(options.keepsIdle === true && { idleTimeoutMillis: 0 }),
    });
    // An idle connection that breaks is dropped by the pool; without a listener Node would end the process.
    pool.on("error", ignore);
    return pool;
  }
}

/**
 * The URL of the server of a database that accepts writes, for a program with a client of its own. Throws an Error that
 * says why there is none.
 */
export async function findPrimary(url: string, timeoutMs: number): Promise<string> {
  return new PrimarySearch(serverUrls(url), async (server) => askServer(server, timeoutMs)).find();
}

async function askServer(url: string, timeoutMs: number): Promise<ServerState> {
  const client = new pg.Client({
    connectionString: url,
    connectionTimeoutMillis: timeoutMs,
    query_timeout: timeoutMs,
  });
  client.on("error", ignore);
  try {
    await client.connect();
    const { rows } = await client.query<ServerState>({ ...SERVER_STATE });
    return rows[0] ?? { writable: false, timeline: 0 };
  } finally {
    // Nobody waits for the goodbye: a server that does not answer would not answer that either.
    void client.end().catch(ignore);
  }
}

/** What the span of a statement says (OpenTelemetry semantic conventions, database client spans); never its values. */
function callSpan(url: string, { name, text }: Statement): Parameters<Span["child"]> {
  const { hostname, port, pathname } = new URL(url);
  return [
    name,
    "client",
    {
      "db.system.name": "postgresql",
      "db.namespace": decodeURIComponent(pathname.slice(1)),
      "db.query.summary": name,
      "db.query.text": text.trim(),
      "server.address": hostname,
      "server.port": Number(port || 5432),
    },
  ];
}

function release(connection: pg.PoolClient, broken: Error | undefined): void {
  connection.off("error", ignore);
  connection.release(broken);
}

function messageOf(cause: unknown): string {
  // A refused connection to a host with several addresses arrives as an AggregateError with an empty message.
  if (cause instanceof AggregateError) return cause.errors.map(String).join("; ");
  return cause instanceof Error ? cause.message : String(cause);
}

function ignore(): void {}

function faultOf(cause: unknown): DatabaseError {
  const message = messageOf(cause);
  if (cause instanceof pg.DatabaseError && cause.code !== undefined) {
    const kind = CONNECTION_ENDED.test(cause.code) ? "lost" : "refused";
    return new DatabaseError(kind, message, { sqlState: cause.code, cause });
  }
  return new DatabaseError("lost", message, { cause });
}
