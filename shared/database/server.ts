/** One server of a database, and the connections to it. Each connection asks its server first whether it accepts writes. */
import { Connection } from "./connection.ts";
import { ConnectionPool } from "./pool.ts";
import { PrimarySearch, type ServerState } from "./primary.ts";
import { serverUrls } from "./url.ts";

/** PostgreSQL gives up first; the client's own timer is for a server that no longer answers at all. */
const CLIENT_TIMEOUT_SLACK_MS = 1_000;

const IDLE_MS = 10_000;

/** The first eight digits of a WAL file's name are its timeline. */
const SERVER_STATE = `
  select not (pg_is_in_recovery() or current_setting('transaction_read_only')::boolean) as writable,
         case when pg_is_in_recovery() then 0
              else ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer end as timeline`;

export interface ServerOptions {
  /** Shown in `pg_stat_activity`. */
  readonly applicationName: string;
  /** Connections that may be open, and so statements that may run, at once. */
  readonly connectionsMax: number;
  /** How long a statement waits for a connection, a new one included. */
  readonly connectTimeoutMs: number;
  /** How long PostgreSQL runs a statement before it cancels it, lock waits included. */
  readonly statementTimeoutMs: number;
  /** How long a statement waits for a row lock before PostgreSQL cancels it. */
  readonly lockTimeoutMs: number;
  /** Further settings of each session (PostgreSQL manual, chapter 19). */
  readonly session?: Readonly<Record<string, string>>;
  /** Idle connections stay open, because their sessions hold something that must last. Others are closed after ten seconds. */
  readonly keepsIdle?: boolean;
}

export class ServerConnection extends Connection {
  state: ServerState = { writable: false, timeline: 0 };
  /** The server's era when this connection was last trusted; undefined before the first time. */
  era: number | undefined;

  /** Closes the connection when there is no answer in time. */
  async ask(withinMs: number): Promise<this> {
    try {
      const [state] = await this.run<ServerState>(SERVER_STATE, [], undefined, withinMs);
      if (state !== undefined) this.state = state;
      return this;
    } catch (cause) {
      this.close(new Error("the first statement failed"));
      throw cause;
    }
  }
}

export class Server {
  readonly url: string;
  readonly pool: ConnectionPool<ServerConnection>;
  /** A new era begins with a fault that all connections to the server may share. */
  #era = 0;

  constructor(url: string, options: ServerOptions) {
    const { applicationName, statementTimeoutMs, lockTimeoutMs } = options;
    this.url = url;
    const settings = {
      url,
      session: {
        ...options.session,
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
      async (withinMs) => new ServerConnection(settings).ask(withinMs),
    );
  }

  trust(connection: ServerConnection): void {
    connection.era = this.#era;
  }

  /** `new` was never trusted; `old` was, in an earlier era. */
  trustIn({ era }: ServerConnection): "trusted" | "new" | "old" {
    return era === undefined ? "new" : era === this.#era ? "trusted" : "old";
  }

  distrust(): void {
    this.#era += 1;
  }
}

/** How much longer than PostgreSQL the client waits. */
export function slackMsOf({ statementTimeoutMs }: Pick<ServerOptions, "statementTimeoutMs">): number {
  return Math.min(CLIENT_TIMEOUT_SLACK_MS, statementTimeoutMs);
}

/** Asks a server on a connection of its own. */
export async function askServer(url: string, timeoutMs: number): Promise<ServerState> {
  using connection = new ServerConnection({ url, session: {}, statementMs: timeoutMs });
  return (await connection.ask(timeoutMs)).state;
}

/** The URL of the server that accepts writes. Throws an Error that says why there is none. */
export async function findPrimary(url: string, timeoutMs: number): Promise<string> {
  return new PrimarySearch(serverUrls(url), async (server) => askServer(server, timeoutMs)).find();
}
