/** Runs what `npm start` runs, on free ports and a temporary DATA_DIR, and watches it from outside. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { chownSync, existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { z } from "zod";

export const CHECKOUT = join(import.meta.dirname, "..", "..");
export const JWT_SECRET = "a secret that only these tests know, 32 or more";
/** Starting, recovering or stopping something may take this long on a busy machine. */
export const PATIENCE_MS = 40_000;

const clusterSchema = z.strictObject({
  router: z.strictObject({ url: z.url(), adminUrl: z.url(), pid: z.int() }),
  shards: z.array(
    z.strictObject({
      id: z.string(),
      nodeUrl: z.url(),
      nodeAdminUrl: z.url(),
      nodePid: z.int(),
      databaseUrl: z.string().startsWith("postgres://"),
      postgresPid: z.int(),
    }),
  ),
  catalogUrl: z.string().startsWith("postgres://"),
  readSide: z
    .strictObject({
      url: z.url(),
      adminUrl: z.url(),
      pid: z.int(),
      databaseUrl: z.string().startsWith("postgres://"),
    })
    .nullable(),
  redisUrl: z.string().startsWith("redis://").nullable(),
  amqpUrl: z.string().startsWith("amqp://").nullable(),
});
export type ClusterDescription = z.infer<typeof clusterSchema>;

const notesSchema = z.object({ processes: z.record(z.string(), z.object({ pid: z.int() })) });
const stateSchema = z.object({ databasesId: z.string().optional() });

export interface StartOptions {
  env?: Readonly<Record<string, string>>;
  dataDir?: string;
  checkout?: string;
  user?: { uid: number; gid: number };
  /** Through npm itself, as a user does. */
  npm?: boolean;
  /** With RabbitMQ, where it is installed: that makes a start some seconds longer. */
  queue?: boolean;
}

/** A directory for one test; `user` may write into it. */
export function temporaryDirectory(user?: { uid: number; gid: number }) {
  const path = mkdtempSync(join(tmpdir(), "onsale-embedded-"));
  if (user !== undefined) chownSync(path, user.uid, user.gid);
  return { path, [Symbol.dispose]: () => removeDataDir(path) };
}

export class NpmStart implements AsyncDisposable {
  readonly dataDir: string;
  readonly #child: ChildProcess;
  readonly #closed: Promise<unknown>;
  readonly #ownDataDir: boolean;
  stdout = "";
  stderr = "";

  constructor(options: StartOptions = {}) {
    const { checkout = CHECKOUT, user, npm = false } = options;
    this.#ownDataDir = options.dataDir === undefined;
    this.dataDir = options.dataDir ?? mkdtempSync(join(tmpdir(), "onsale-embedded-"));
    const node = join(checkout, "node_modules", ".bin", "node");
    const program = npm ? "npm" : existsSync(node) ? node : process.execPath;
    this.#child = spawn(program, npm ? ["start"] : ["deploy/embedded/main.ts"], {
      ...user,
      cwd: checkout,
      env: {
        ...environment(options.queue ?? false),
        PORT: "0",
        ADMIN_PORT: "0",
        DATA_DIR: this.dataDir,
        AUTH_JWT_SECRET: JWT_SECRET,
        ...options.env,
      },
      detached: true, // a process group of its own, as a terminal gives to each command
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.#child.stdout?.on("data", (chunk: Buffer) => (this.stdout += chunk.toString()));
    this.#child.stderr?.on("data", (chunk: Buffer) => (this.stderr += chunk.toString()));
    this.#closed = once(this.#child, "close");
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** Resolves when the router says that it is ready. */
  async ready(): Promise<ClusterDescription> {
    await until("the cluster is ready", async () => {
      if (this.#child.exitCode !== null) throw new Error(`npm start ended: ${this.stdout}${this.stderr}`);
      return (
        existsSync(join(this.dataDir, "cluster.json")) && (await isReady(this.cluster().router.adminUrl))
      );
    });
    return this.cluster();
  }

  cluster(): ClusterDescription {
    return clusterSchema.parse(JSON.parse(readFileSync(join(this.dataDir, "cluster.json"), "utf8")));
  }

  /** Every process it has started and is responsible for, by name. */
  pids(): Record<string, number> {
    const notes = join(this.dataDir, "processes.json");
    if (!existsSync(notes)) return {};
    const { processes } = notesSchema.parse(JSON.parse(readFileSync(notes, "utf8")));
    return Object.fromEntries(Object.entries(processes).map(([name, { pid }]) => [name, pid]));
  }

  /** Signals it alone, or with `group` the whole process group, as Ctrl-C in a terminal does. */
  signal(signal: NodeJS.Signals, group = false): void {
    process.kill(group ? -this.pid : this.pid, signal);
  }

  /** Resolves to its exit code once it has ended and its output is complete. */
  async ended(): Promise<number | null> {
    await this.#closed;
    return this.#child.exitCode;
  }

  async stop(): Promise<number | null> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) this.signal("SIGTERM");
    return this.ended();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    if (this.#ownDataDir) removeDataDir(this.dataDir);
  }
}

/** Polls until it holds; a deadline, not a pause, decides that it does not. */
export async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = Date.now() + PATIENCE_MS;
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`not so within ${PATIENCE_MS / 1000} s: ${what}`);
    await sleep(25);
  }
}

export async function isReady(adminUrl: string): Promise<boolean> {
  try {
    return (await fetch(`${adminUrl}/readyz`)).status === 200;
  } catch {
    return false;
  }
}

export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch {
    return false;
  }
  // A container without an init process keeps the dead around as zombies; they run no more.
  const status = `/proc/${pid}/stat`;
  return !existsSync(status) || !/\) Z /.test(readFileSync(status, "utf8"));
}

/** Root may have been given a directory outside DATA_DIR for the databases; it goes with it. */
export function removeDataDir(dataDir: string): void {
  const stateFile = join(dataDir, "state.json");
  if (existsSync(stateFile)) {
    const { databasesId } = stateSchema.parse(JSON.parse(readFileSync(stateFile, "utf8")));
    if (databasesId !== undefined)
      rmSync(join("/var/lib/onsale", databasesId), { recursive: true, force: true });
  }
  rmSync(dataDir, { recursive: true, force: true });
}

/** Ours, without what would configure the cluster or hide its output. */
function environment(queue: boolean): Record<string, string | undefined> {
  const {
    SHARDS: _s,
    HOST: _h,
    REDIS_URL: _r,
    AMQP_URL: _a,
    LOG_LEVEL: _l,
    NODE_OPTIONS: _n,
    ...rest
  } = process.env;
  const places = (rest["PATH"] ?? "").split(delimiter);
  const withQueue = [...places, "/usr/sbin"];
  const without = places.filter((place) => !existsSync(join(place, "rabbitmq-server")));
  return { ...rest, PATH: (queue ? withQueue : without).join(delimiter) };
}
