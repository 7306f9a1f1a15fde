/**
 * One PostgreSQL server: makes its data directory, gives its settings, and tells whether it is ready. The cluster's
 * supervisor runs a server from these parts; `startPostgresServer` boots a throw-away one for tests.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  chownSync,
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { postgresBinaries, type PostgresBinaries } from "./binaries.ts";
import { chooseFreePort } from "./ports.ts";
import { commandOf } from "./process-identity.ts";
import { runProgram } from "./run-program.ts";
import { canWrite, ownerOf, runAs, serviceUser, type ServiceUser } from "./service-user.ts";
import { StartError } from "./start-error.ts";
import type { ProcessSpec } from "./supervisor.ts";

/** The role that owns every database of the cluster. */
const SUPERUSER = "onsale";
const STOP_MAX_MS = 30_000;
/** Recovery after a crash replays up to max_wal_size. */
const READY_MAX_MS = 120_000;

export interface PostgresPlace {
  readonly dataDir: string;
  readonly binaries: PostgresBinaries;
  readonly user: ServiceUser | undefined;
}

export function databaseUrl(server: { port: number; password: string }, database: string): string {
  return `postgres://${SUPERUSER}:${server.password}@127.0.0.1:${server.port}/${database}`;
}

/**
 * Makes a data directory with these databases, once. It gets its name when it is complete, so an interrupted first start
 * leaves nothing that looks usable. initdb flushes it to disk in 20 ms; `durable: false` leaves the flush out. Throws
 * StartError with initdb's message.
 */
export async function createDataDirectory(
  place: PostgresPlace,
  options: { password: string; databases: readonly string[]; durable: boolean; signal?: AbortSignal },
): Promise<void> {
  const { dataDir, binaries, user } = place;
  if (existsSync(dataDir)) return;
  const [draft, passwordFile] = [`${dataDir}.new`, `${dataDir}.password`];
  const common = { runAs: runAs(user), env: {}, signal: options.signal };
  try {
    rmSync(draft, { recursive: true, force: true });
    writeFileSync(passwordFile, options.password, { mode: 0o600 });
    if (user !== undefined) chownSync(passwordFile, user.uid, user.gid);
    const where = [`--pgdata=${draft}`, `--username=${SUPERUSER}`, `--pwfile=${passwordFile}`];
    const flags = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions"];
    if (!options.durable) flags.push("--no-sync");
    await runProgram("initdb", binaries.initdb, [...where, ...flags], common);
    // Single-user mode creates databases without a server, a port or a client.
    const statements = options.databases.map((database) => `create database ${database};\n`).join("");
    const fsync = options.durable ? "on" : "off";
    if (statements !== "") {
      const args = ["--single", "-D", draft, "-c", "exit_on_error=on", "-c", `fsync=${fsync}`, "postgres"];
      await runProgram("creating databases", binaries.postgres, args, { ...common, input: statements });
    }
    renameSync(draft, dataDir);
    if (options.durable) flushDirectory(dirname(dataDir)); // else a power cut could undo the rename
  } finally {
    rmSync(passwordFile, { force: true });
    rmSync(draft, { recursive: true, force: true });
  }
}

/** The server's command line. It has the settings, not postgresql.conf: so old data directories get today's settings. */
export function serverArguments(
  place: PostgresPlace,
  options: { port: number; durable: boolean; connectionsMax?: number },
): string[] {
  const onOff = options.durable ? "on" : "off";
  const settings = {
    listen_addresses: "127.0.0.1",
    port: String(options.port),
    unix_socket_directories: "", // sockets need short paths and writable directories; TCP needs neither
    // A node's pool, the catalog's readers, migrations, the auditor.
    max_connections: String(options.connectionsMax ?? 50),
    shared_buffers: "128MB",
    // On, so that a confirmed booking survives a power cut. Tests' throw-away servers turn it off.
    fsync: onOff,
    synchronous_commit: onOff,
    full_page_writes: onOff,
    // After a checkpoint every page is logged in full once. Few checkpoints mean less log in a rush and a longer recovery.
    max_wal_size: "2GB",
    min_wal_size: "256MB",
    wal_compression: "off", // this build has only pglz, which costs more processor time than it saves disk
    // Every batch updates event rows. Vacuum them often, so that the space of dead versions is used again.
    autovacuum_naptime: "20s",
    autovacuum_max_workers: "2",
    // The whole cluster shares this machine, and its statements are short.
    max_parallel_workers_per_gather: "0",
    io_method: "sync",
    jit: "off",
    timezone: "UTC",
    log_timezone: "UTC",
    log_checkpoints: "off",
  };
  const flags = Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
  return ["-D", place.dataDir, ...flags];
}

/** The server as the cluster's supervisor runs it. */
export function postgresSpec(
  place: PostgresPlace,
  options: { name: string; port: number; logFile: string },
): ProcessSpec {
  return {
    name: options.name,
    program: place.binaries.postgres,
    args: serverArguments(place, { port: options.port, durable: true }),
    env: {},
    runAs: runAs(place.user),
    logFile: options.logFile,
    channel: false,
    stopSignal: "SIGINT", // fast shutdown: it ends sessions, and the next start needs no recovery
    stopMaxMs: STOP_MAX_MS,
    readyMaxMs: READY_MAX_MS,
    prepare: () => clearStaleStatus(place.dataDir),
    isReady: (pid) => isReady(place.dataDir, pid),
  };
}

/** Whether the server with this pid accepts connections. Its data directory says so, as it does to pg_ctl. */
export function isReady(dataDir: string, pid: number): boolean {
  const status = serverStatus(dataDir);
  return status?.pid === pid && status.ready; // the file may be a killed server's
}

function serverStatus(dataDir: string): { pid: number; ready: boolean } | undefined {
  const file = `${dataDir}/postmaster.pid`;
  if (!existsSync(file)) return undefined;
  const lines = readFileSync(file, "utf8").split("\n");
  return { pid: Number(lines[0]), ready: lines[7]?.trim() === "ready" };
}

/**
 * Removes a postmaster.pid that a crash left, when its pid now belongs to another program (usual in a restarted
 * container). PostgreSQL would take that program for a running server and refuse to start.
 */
export function clearStaleStatus(dataDir: string): void {
  const status = serverStatus(dataDir);
  if (status === undefined || commandOf(status.pid)?.includes(dataDir) === true) return;
  rmSync(`${dataDir}/postmaster.pid`);
}

export interface PostgresServer extends AsyncDisposable {
  readonly pid: number;
  readonly port: number;
  readonly dataDir: string;
  url(database: string): string;
  /** Ends sessions, keeps the data. */
  stop(): Promise<void>;
}

/**
 * Boots one server for a test, on a free port unless given, and waits until it accepts connections. It uses an existing
 * `dataDir` again; without one it makes a temporary directory and removes that on `stop()`. It does not flush unless
 * asked to. Under root, the service user must be able to write to the parent of `dataDir`, or the parent must not exist.
 */
export async function startPostgresServer(
  options: {
    dataDir?: string;
    port?: number;
    password?: string;
    databases?: readonly string[];
    durable?: boolean;
    connectionsMax?: number;
  } = {},
): Promise<PostgresServer> {
  const { password = "throw-away", databases = [], durable = false, connectionsMax } = options;
  const chosen = serviceUser();
  const temporary = options.dataDir === undefined ? temporaryDirectory(chosen) : undefined;
  const dataDir = options.dataDir ?? `${temporary}/data`;
  const place: PostgresPlace = {
    dataDir,
    binaries: postgresBinaries(chosen),
    user: existsSync(dataDir) ? ownerOf(dataDir, chosen) : chosen,
  };
  prepareParent(dataDir, chosen);
  await createDataDirectory(place, { password, databases, durable });
  clearStaleStatus(dataDir);
  const port = options.port ?? (await chooseFreePort(new Set()));
  const logFile = `${dataDir}.log`;
  const log = openSync(logFile, "a", 0o600);
  const settings = { port, durable, ...(connectionsMax === undefined ? {} : { connectionsMax }) };
  const child = spawn(place.binaries.postgres, serverArguments(place, settings), {
    ...runAs(place.user),
    detached: true,
    stdio: ["ignore", log, log],
  });
  closeSync(log);
  const exited = once(child, "exit");
  const { pid } = child;
  if (pid === undefined) throw new StartError(`${place.binaries.postgres} cannot be started`);
  while (!isReady(dataDir, pid)) {
    if (child.exitCode !== null || child.signalCode !== null)
      throw new StartError(`PostgreSQL did not start, see ${logFile}`);
    await sleep(10);
  }
  const stop = async () => {
    child.kill("SIGINT");
    await exited;
    if (temporary !== undefined) rmSync(temporary, { recursive: true, force: true });
  };
  const url = (database: string) => databaseUrl({ port, password }, database);
  return { pid, port, dataDir, url, stop, [Symbol.asyncDispose]: stop };
}

function flushDirectory(directory: string): void {
  const descriptor = openSync(directory, "r");
  fsyncSync(descriptor);
  closeSync(descriptor);
}

function temporaryDirectory(user: ServiceUser | undefined): string {
  const directory = mkdtempSync(join(tmpdir(), "onsale-postgres-"));
  if (user !== undefined) chownSync(directory, user.uid, user.gid);
  return directory;
}

/** The parent of the data directory. Under root it belongs to the service user. */
export function prepareParent(dataDir: string, user: ServiceUser | undefined): void {
  const parent = dirname(dataDir);
  if (!existsSync(parent)) {
    mkdirSync(parent, { recursive: true });
    chmodSync(parent, 0o700);
    if (user !== undefined) chownSync(parent, user.uid, user.gid);
  }
  if (!canWrite(user, parent)) {
    throw new StartError(`${user === undefined ? "you" : `user ${user.name}`} cannot write into ${parent}`);
  }
}
