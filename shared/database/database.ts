/**
 * PostgreSQL. Every statement is one round trip on a pooled connection. Every transaction is one statement that calls one
 * function, so no connection is ever left inside a transaction and no lock is held across the network. Routers do not
 * import this module. How the driver is kept safe: connection.ts.
 */
import type { Noticed } from "./connection.ts";
import { DatabaseError, faultOf, messageOf } from "./faults.ts";
import { PoolBusy } from "./pool.ts";
import { PrimarySearch } from "./primary.ts";
import { askServer, Server, type ServerConnection, type ServerOptions, slackMsOf } from "./server.ts";
import { callSpan, namedText, type Statement } from "./statement.ts";
import { serverName, serverUrls } from "./url.ts";
import type { Span } from "../watch/tracing.ts";

export { DatabaseError, LOCK_NOT_AVAILABLE } from "./faults.ts";
export { findPrimary } from "./server.ts";
export type { Statement } from "./statement.ts";

export interface DatabaseOptions extends ServerOptions {
  /** May name several servers (url.ts); the one that accepts writes is used. */
  readonly url: string;
  /** Statements that may wait for a connection; one more is refused at once. */
  readonly waitersMax: number;
  /** Nothing is written here, so any server will do, a replica too. */
  readonly readOnly?: boolean;
  readonly observer?: DatabaseObserver;
}

/** Told about every use of a connection, in seconds. */
export interface DatabaseObserver {
  waited(seconds: number): void;
  held(seconds: number): void;
}

export class Database {
  readonly #servers: readonly Server[];
  readonly #search: PrimarySearch;
  readonly #options: DatabaseOptions;
  /** Where the last search found the primary; undefined when it has to be searched again. */
  #primary: Server | undefined;
  /** Statements that wait for the search. */
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
   * Runs one statement and returns its rows. `noticed` hears RAISE NOTICE; the statement's span hangs under `span`.
   * Throws only DatabaseError.
   */
  async query<Row extends object>(
    statement: Statement,
    values: readonly unknown[] = [],
    noticed?: Noticed,
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
      if (fault.spoilsConnection) {
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

  /** The newest timeline known here (primary.ts); 0 before the first connection. */
  get timeline(): number {
    return this.#search.newestTimeline;
  }

  /** From now on refuses servers of older timelines. Servers that were trusted before are asked again. */
  refuseBefore(timeline: number): void {
    if (!this.#search.learn(timeline)) return;
    for (const server of this.#servers) this.#leave(server);
  }

  /**
   * Asks whether another server has become the primary. The replaced primary works on unless somebody stops it, and
   * says nothing. Never throws, and takes half of `connectTimeoutMs` at most.
   */
  async lookForSuccessor(): Promise<void> {
    if (this.#servers.length > 1) this.refuseBefore(await this.#search.newestBeside(this.#primary?.url));
  }

  /** The bounds that a transaction sets itself: a pooler drops the settings that a connection was opened with. */
  get bounds(): { lockTimeoutMs: number; transactionTimeoutMs: number } {
    const { lockTimeoutMs, statementTimeoutMs } = this.#options;
    // Later than the statement's own timeout, which spares the session; earlier than the client gives up.
    const transactionTimeoutMs = Math.round(statementTimeoutMs + slackMsOf(this.#options) / 2);
    return { lockTimeoutMs, transactionTimeoutMs };
  }

  /** Lets running statements finish, then closes all connections. */
  async close(): Promise<void> {
    await Promise.all(this.#servers.map(async ({ pool }) => pool.close()));
  }

  /** A connection to the primary. */
  async #connect(): Promise<{ server: Server; connection: ServerConnection }> {
    // Not awaited when it is known: a statement takes its place among the waiting ones before the next one comes.
    const server = this.#primary ?? (await this.#findPrimary());
    for (;;) {
      const connection = await server.pool.take().catch((cause: unknown) => {
        const isBusy = cause instanceof PoolBusy;
        if (!isBusy) this.#leave(server);
        throw new DatabaseError(isBusy ? "busy" : "unreachable", messageOf(cause), { cause });
      });
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

  /** A fault of one connection may be a fault of its server: the others are no longer trusted, and the primary is searched. */
  #leave(server: Server): void {
    server.distrust();
    if (this.#primary === server && this.#servers.length > 1) this.#primary = undefined;
  }
}
