/**
 * PostgreSQL (how the driver is kept safe: shared/database/connection.ts and docs/decisions/0003-postgres-driver.md). Every
 * statement is one round trip on a pooled connection. Every transaction is one statement that calls one function, so no
 * connection is ever left inside a transaction and no lock is held across the network. Routers do not import this module.
 */
import { Connection, type Noticed, Refusal } from "./connection.ts";
import { ConnectionPool, PoolBusy } from "./pool.ts";
import { serverName, serverOf, serverUrls } from "./url.ts";
import { PrimarySearch, type ServerState } from "./primary.ts";
import type { Span } from "../watch/tracing.ts";

export interface DatabaseOptions {
  /** May name several servers (shared/database/url.ts); the one that accepts writes is used. */
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
  /** Prepared once per connection; logs, traces and pg_stat_activity show it under this name. */
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

/** A connection that nobody uses is closed after this time, unless `keepsIdle`. */
const IDLE_MS = 10_000;

/** Asked on each new connection. The first eight digits of a WAL file's name are its timeline. */
const SERVER_STATE: Statement = {
  name: "server-state",
  text: `
    select not (pg_is_in_recovery() or current_setting('transaction_read_only')::boolean) as writable,
           case when pg_is_in_recovery() then 0
                else ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer end as timeline`,
};

/** A connection that asks its server what it is before anything else. */
class AskingConnection extends Connection {
  state: ServerState = { writable: false, timeline: 0 };
  /** Of the server, when this connection was last trusted; undefined before the first time. */
  era: number | undefined;

  /** Closes the connection when there is no answer in time. */
  async ask(withinMs: number): Promise<this> {
    try {
      const [state] = await this.run<ServerState>(SERVER_STATE.text, [], ignore, withinMs);
      if (state !== undefined) this.state = state;
      return this;
    } catch (cause) {
      this.close(new Error("the first statement failed"));
      throw cause;
    }
  }
}

/** One server of a database and the connections to it. */
class Server {
  readonly url: string;
  readonly pool: ConnectionPool<AskingConnection>;
  /** Raised when something happened that all connections to the server may share. */
  #era = 0;

  constructor(url: string, options: DatabaseOptions) {
    const { applicationName, statementTimeoutMs, lockTimeoutMs } = options;
    this.url = url;
    const settings = {
      url,
      session: {
        application_name: applicationName,
        statement_timeout: String(statementTimeoutMs),
        lock_timeout: String(lockTimeoutMs),
        idle_in_transaction_session_timeout: String(statementTimeoutMs),
      },
      statementMs: statementTimeoutMs + slackMsOf(options),
    };
    this.pool = new ConnectionPool(
      {
        connectionsMax: options.connectionsMax,
        waitMs: options.connectTimeoutMs,
        idleMs: options.keepsIdle === true ? undefined : IDLE_MS,
      },
      async (withinMs) => new AskingConnection(settings).ask(withinMs),
    );
  }

  trust(connection: AskingConnection): void {
    connection.era = this.#era;
  }

  /** `new` was never trusted; `old` was, in an era before this one. */
  trustIn({ era }: AskingConnection): "trusted" | "new" | "old" {
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
    this.#servers = urls.map((url) => new Server(url, options));
    if (this.#servers.length === 1) [this.#primary] = this.#servers;
    this.#search = new PrimarySearch(urls, async (url) => askServer(url, options.connectTimeoutMs / 2));
  }

  /** Connections in use, open but idle, and statements that wait for one. */
  get pool(): { busy: number; idle: number; waiting: number } {
    const counts = { busy: 0, idle: 0, waiting: this.#searchers };
    for (const { pool } of this.#servers) {
      counts.busy += pool.busy;
      counts.idle += pool.idle;
      counts.waiting += pool.waiting;
    }
    return counts;
  }

  /**
   * Runs one statement and returns its rows; `noticed` hears what PostgreSQL says meanwhile (RAISE NOTICE), and `span` is
   * the work that the statement is part of. Throws only DatabaseError.
   */
  async query<Row extends object>(
    statement: Statement,
    values: readonly unknown[] = [],
    noticed: Noticed = ignore,
    span?: Span,
  ): Promise<Row[]> {
    if (this.pool.waiting >= this.#options.waitersMax) {
      throw new DatabaseError("busy", `${this.#options.waitersMax} statements wait for a connection already`);
    }
    const asked = performance.now();
    const { server, connection } = await this.#connect();
    const started = performance.now();
    this.#options.observer?.waited((started - asked) / 1000);
    const call = span?.child(...callSpan(server.url, statement));
    try {
      return await connection.run<Row>(namedText(statement), values, noticed);
    } catch (error) {
      const fault = faultOf(error);
      if (fault.kind === "lost" || GIVES_UP.has(fault.sqlState ?? "")) {
        connection.close(fault);
        this.#leave(server);
      }
      call?.failed(fault.sqlState ?? fault.kind);
      throw fault;
    } finally {
      call?.end();
      server.pool.giveBack(connection);
      this.#options.observer?.held((performance.now() - started) / 1000);
    }
  }

  /** The newest timeline of its servers that is known here (shared/database/primary.ts); 0 before the first connection. */
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
    const transactionTimeoutMs = Math.round(statementTimeoutMs + slackMsOf(this.#options) / 2);
    return { lockTimeoutMs, transactionTimeoutMs };
  }

  /** Lets running statements finish, then closes all connections. */
  async close(): Promise<void> {
    await Promise.all(this.#servers.map(async ({ pool }) => pool.close()));
  }

  /** A connection to the primary. */
  async #connect(): Promise<{ server: Server; connection: AskingConnection }> {
    // Not awaited when it is known: the statement has its place among those that wait before the next one is asked for.
    const server = this.#primary ?? (await this.#findPrimary());
    for (;;) {
      const connection = await this.#connectTo(server);
      const trust = server.trustIn(connection);
      if (trust === "trusted" || (trust === "new" && this.#options.readOnly === true))
        return { server, connection };
      const objection = trust === "old" ? "may have changed" : this.#search.objectionTo(connection.state);
      if (objection === undefined) {
        server.trust(connection);
        return { server, connection };
      }
      const fault = new DatabaseError("unreachable", `${serverName(server.url)} ${objection}`);
      connection.close(fault);
      server.pool.giveBack(connection);
      if (trust === "old") continue; // at most connectionsMax of them
      this.#leave(server);
      throw fault;
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

  async #connectTo(server: Server): Promise<AskingConnection> {
    try {
      return await server.pool.take();
    } catch (cause) {
      const isBusy = cause instanceof PoolBusy;
      if (!isBusy) this.#leave(server);
      throw new DatabaseError(isBusy ? "busy" : "unreachable", messageOf(cause), { cause });
    }
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
  using connection = new AskingConnection({ url, session: {}, statementMs: timeoutMs });
  return (await connection.ask(timeoutMs)).state;
}

/** How much longer than PostgreSQL the client waits. */
function slackMsOf({ statementTimeoutMs }: DatabaseOptions): number {
  return Math.min(CLIENT_TIMEOUT_SLACK_MS, statementTimeoutMs);
}

/** What the span of a statement says (OpenTelemetry semantic conventions, database client spans); never its values. */
function callSpan(url: string, { name, text }: Statement): Parameters<Span["child"]> {
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

/** Begins with the statement's name: the driver gives prepared statements names of its own, which say nothing. */
function namedText(statement: Statement): string {
  let named = namedTexts.get(statement);
  if (named === undefined) {
    named = `/* ${statement.name} */ ${statement.text.trim()}`;
    namedTexts.set(statement, named);
  }
  return named;
}

function messageOf(cause: unknown): string {
  // A refused connection to a host with several addresses arrives as an AggregateError with an empty message.
  if (cause instanceof AggregateError) return cause.errors.map(String).join("; ");
  return cause instanceof Error ? cause.message : String(cause);
}

function ignore(): void {}

function faultOf(cause: unknown): DatabaseError {
  const message = messageOf(cause);
  if (!(cause instanceof Refusal)) return new DatabaseError("lost", message, { cause });
  const kind = CONNECTION_ENDED.test(cause.sqlState) ? "lost" : "refused";
  return new DatabaseError(kind, message, { sqlState: cause.sqlState, cause });
}
