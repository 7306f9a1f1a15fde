/**
 * One connection to PostgreSQL, and the only door to `postgres` (postgres.js). docs/decisions/0003-postgres-driver.md says
 * why it is built like this.
 *
 * The driver's known faults have one root: it goes on with a connection after a fault. So each connection here has a client
 * and a socket of its own, and runs one statement at a time. After anything but a plain refusal by the server, client,
 * socket and connection are thrown away. This file opens and destroys the socket, so every wait is bounded here. An option
 * that departs from the driver's default has a comment that names the fault that it keeps out.
 */
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { connect as connectTcp, isIP, type Socket } from "node:net";
import { type ConnectionOptions, connect as connectTls } from "node:tls";
import postgres from "postgres";
import { serverOf } from "./url.ts";
import { invariant } from "../domain/invariant.ts";
import { TYPES, textOf } from "./types.ts";

/** How long a server has to hang up after the goodbye. */
const GOODBYE_MS = 1_000;

/** Messages of the protocol (PostgreSQL manual §54.7): SSLRequest and Terminate. */
const TLS_REQUEST = Buffer.from([0, 0, 0, 8, 4, 210, 22, 47]);
const GOODBYE = Buffer.from([0x58, 0, 0, 0, 4]);

/** Parameters of the URL about TLS; all others are settings of the session. */
const TLS_PARAMETERS = ["sslmode", "sslrootcert", "sslcert", "sslkey"];

/** PostgreSQL answered with an error. */
export class Refusal extends Error {
  override readonly name = "Refusal";
  /** PostgreSQL manual, appendix A. */
  readonly sqlState: string;

  constructor(message: string, sqlState: string, options?: ErrorOptions) {
    super(message, options);
    this.sqlState = sqlState;
  }
}

export interface ConnectionSettings {
  /** Names one server. Its parameters that are not about TLS are settings of the session. */
  readonly url: string;
  /** Settings of the session (PostgreSQL manual, chapter 19); a setting in the URL overrides one here. */
  readonly session: Readonly<Record<string, string>>;
  /** A statement without an answer after this time ends the connection. */
  readonly statementMs: number;
}

export type Noticed = (message: string | undefined) => void;

/** Opens with the first statement. The caller runs one statement at a time. */
export class Connection implements Disposable {
  readonly #sql: postgres.Sql;
  readonly #statementMs: number;
  /** The TCP connection: destroying it ends everything above it. */
  #socket: Socket | undefined;
  /** The socket, or TLS over it: statements and the goodbye are written here. */
  #stream: Socket | undefined;
  #isClosed = false;
  /** The last bytes from the server since the statement began. */
  #lastBytes: Buffer | undefined;
  /** Ends the wait of the running statement. */
  #abandon: (reason: Error) => void = ignore;
  #noticed: Noticed = ignore;
  /** Called once, when the connection has closed. */
  onClosed: () => void = ignore;

  constructor({ url, session, statementMs }: ConnectionSettings) {
    this.#statementMs = statementMs;
    const { host, port, user, password, database, parameters } = serverOf(url);
    const tls = tlsOptions(host, parameters);
    const given = [...parameters].filter(([name]) => !TLS_PARAMETERS.includes(name));
    const options: DriverOptions = {
      host,
      port,
      user,
      password,
      database,
      connection: { application_name: "onsale", ...session, ...Object.fromEntries(given) },
      // A second connection would be opened and used behind the back of the pool.
      max: 1,
      // The driver would ask for array types by itself. When the connection breaks meanwhile, nobody catches the rejection.
      fetch_types: false,
      // Each of these timers ends or fails a connection behind the back of the pool.
      idle_timeout: 0,
      max_lifetime: null,
      connect_timeout: 0,
      // The driver's TLS hangs when the server hangs up in the handshake. The driver tries several hosts for ever.
      ssl: false,
      socket: async () => (this.#stream = await this.#openSocket(host, port, tls)),
      types: TYPES,
      // The driver prints notices to the console otherwise.
      onnotice: ({ message }) => this.#noticed(message),
      // Set, because the driver would read PGPREPARE, PGDEBUG and PGKEEP_ALIVE.
      prepare: true,
      debug: false,
      keep_alive: 60,
    };
    this.#sql = postgres(options as postgres.Options<Record<string, postgres.PostgresType>>);
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  /**
   * Runs one statement, prepared once per connection, and returns its rows. `noticed` hears RAISE NOTICE. Takes at most
   * `withinMs`, opening the connection included. Throws a Refusal when PostgreSQL said no: the connection can be used again
   * unless it has closed. After any other Error the fate of the statement is unknown, and the connection has closed.
   */
  async run<Row extends object>(
    text: string,
    values: readonly unknown[] = [],
    noticed: Noticed = ignore,
    withinMs = this.#statementMs,
  ): Promise<Row[]> {
    const rows: Row[] = [];
    const parameters = values.map(textOf);
    await this.#settle(
      () =>
        this.#sql
          // Without values the driver would choose the simple protocol: unprepared, and several statements in one text.
          .unsafe(text, parameters, { prepare: true, simple: false } as postgres.UnsafeQueryOptions)
          // One by one: after an error in the middle of a result, the driver's next array of rows has holes.
          .forEach((row) => void rows.push(row as Row)),
      noticed,
      withinMs,
    );
    return rows;
  }

  /** Runs a text of several statements, in one transaction unless the text says otherwise. Throws as `run` does. */
  async script(text: string): Promise<void> {
    await this.#settle(() => this.#sql.unsafe(text).simple().forEach(ignore), ignore, this.#statementMs);
  }

  /** Says goodbye, and hangs up when the server does not. With a reason, hangs up at once, and a running statement fails. */
  close(reason?: Error): void {
    if (reason === undefined && this.#stream !== undefined && !this.#isClosed) {
      this.#stream.end(GOODBYE);
      setTimeout(() => this.#socket?.destroy(), GOODBYE_MS).unref();
      return;
    }
    this.#socket?.destroy(reason);
    this.#ended(reason);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** Waits for the driver, and closes the connection after every fault. */
  async #settle(start: () => PromiseLike<unknown>, noticed: Noticed, withinMs: number): Promise<void> {
    invariant(this.#abandon === ignore, "a connection runs one statement at a time");
    if (this.#isClosed) throw new Error(ENDED);
    this.#lastBytes = undefined;
    this.#noticed = noticed;
    const timer = setTimeout(() => this.close(new Error(`no answer within ${withinMs} ms`)), withinMs);
    try {
      await new Promise((resolve, reject) => {
        this.#abandon = reject;
        start().then(resolve, reject);
      });
    } catch (cause) {
      const reason = cause instanceof Error ? cause : new Error(String(cause));
      const isPlain = reason instanceof postgres.PostgresError && reason.severity === "ERROR";
      if (!isPlain) this.close(reason);
      // A fatal error is followed by the end of the connection, and the driver reports only the end.
      const said = reason instanceof postgres.PostgresError ? reason : fatalErrorIn(this.#lastBytes);
      if (said !== undefined) throw new Refusal(said.message, said.code, { cause });
      // The driver's words, "write CONNECTION_CLOSED", tell nobody what happened.
      throw "code" in reason && reason.code === "CONNECTION_CLOSED" ? new Error(ENDED, { cause }) : reason;
    } finally {
      clearTimeout(timer);
      this.#abandon = this.#noticed = ignore;
    }
  }

  async #openSocket(host: string, port: number, tls: ConnectionOptions | undefined): Promise<Socket> {
    // When the server hangs up before the login is done, the driver asks for another socket, at once and for ever.
    if (this.#socket !== undefined || this.#isClosed) throw new Error("the server hung up");
    const socket = connectTcp({ host, port, noDelay: true });
    this.#socket = socket;
    // Under TLS nothing else listens to this socket, and an error without a listener ends the process.
    socket.on("error", ignore);
    // Added before the driver's listeners, and before the driver can remove any.
    socket.once("close", () => this.#ended());
    await once(socket, "connect");
    const stream = tls === undefined ? socket : await secured(socket, tls);
    stream.on("data", (bytes: Buffer) => (this.#lastBytes = bytes));
    return stream;
  }

  #ended(reason: Error = new Error(ENDED)): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    // The driver rejects first, because its reason is better. But it forgets a statement that it was given between a
    // socket's error and its end. Such a statement ends here.
    setImmediate(this.#abandon, reason);
    this.onClosed();
  }
}

const ENDED = "Connection terminated unexpectedly";

/** The driver's type lacks `socket` and null. */
type DriverOptions = Omit<
  postgres.Options<Record<string, postgres.PostgresType>>,
  "max_lifetime" | "ssl" | "debug"
> & {
  readonly socket: () => Promise<Socket>;
  readonly max_lifetime: null;
  readonly ssl: false;
  readonly debug: false;
};

/** Speaks TLS over a socket that is connected (PostgreSQL manual §54.2.9). */
async function secured(socket: Socket, options: ConnectionOptions): Promise<Socket> {
  socket.write(TLS_REQUEST);
  const [answer] = (await once(socket, "data")) as [Buffer];
  // Bytes after this one would not be protected by TLS: somebody in between may have sent them (CVE-2021-23222).
  if (answer.toString("latin1") !== "S") throw new Error("the server does not speak TLS");
  const secure = connectTls({ ...options, socket });
  await once(secure, "secureConnect");
  return secure;
}

/** All modes of `sslmode` but `disable` and `no-verify` verify the server's certificate and its name. */
function tlsOptions(host: string, parameters: URLSearchParams): ConnectionOptions | undefined {
  const mode = parameters.get("sslmode") ?? "disable";
  if (mode === "disable") return undefined;
  const options: ConnectionOptions = { host, rejectUnauthorized: mode !== "no-verify" };
  if (isIP(host) === 0) options.servername = host;
  for (const [name, option] of [
    ["sslrootcert", "ca"],
    ["sslcert", "cert"],
    ["sslkey", "key"],
  ] as const) {
    const file = parameters.get(name);
    if (file !== null) options[option] = readFileSync(file);
  }
  return options;
}

/** The fatal error that ends these bytes, if one does (PostgreSQL manual §54.7, ErrorResponse; §54.8 for its fields). */
function fatalErrorIn(bytes: Buffer | undefined): { message: string; code: string } | undefined {
  if (bytes === undefined) return undefined;
  for (let at = bytes.indexOf("E"); at >= 0; at = bytes.indexOf("E", at + 1)) {
    if (at + 5 > bytes.length || bytes.readUInt32BE(at + 1) !== bytes.length - at - 1) continue;
    const fields = bytes.toString("utf8", at + 5).split("\0");
    const field = (type: string) => fields.find((each) => each.startsWith(type))?.slice(1);
    const [severity, code] = [field("V"), field("C")];
    // A panic is no refusal: it may have ended the server in the middle of a commit.
    if (severity === "FATAL" && code?.length === 5) return { code, message: field("M") ?? code };
  }
  return undefined;
}

function ignore(): void {}
