/**
 * The cluster that is measured: the one of `npm start`, with durable databases, on free ports and in a temporary
 * DATA_DIR, as its own processes, and as many more routers as are asked for. It always ends with the benchmark, and its
 * data are removed.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { audit, type AuditReport } from "../audit/audit.ts";
import { ProcessNotes } from "../deploy/embedded/leftovers.ts";
import { commandOf } from "../deploy/embedded/process-identity.ts";
import type { EventId } from "../shared/domain/ids.ts";
import type { Event } from "../shared/domain/events.ts";
import { createEvent, type EventFields, makeEvents, readEvent } from "./cluster-events.ts";
import {
  type ClusterFile,
  type RouterAddress,
  readClusterFile,
  readState,
  redisPidIn,
} from "./cluster-file.ts";
import { startRouter } from "./cluster-routers.ts";
import type { Progress } from "./progress.ts";

export interface ClusterOptions {
  /** 1 to 16; 2 by default, as `npm start` has them. */
  readonly shards?: number;
  /** All of them in front of the same shards; 1 by default. */
  readonly routers?: number;
  /** Further settings of its roles. */
  readonly env?: Readonly<Record<string, string>>;
}

export interface BenchCluster extends AsyncDisposable {
  /** The first of `routers`. */
  readonly router: RouterAddress;
  readonly routers: readonly RouterAddress[];
  readonly shards: ClusterFile["shards"];
  /** undefined where no Redis is installed; every router and node does without it then. */
  readonly redis: { readonly url: string; readonly pid: number | undefined } | undefined;
  readonly dataDir: string;
  /** Signs the tokens that this cluster takes. */
  readonly secret: string;
  /** One more in front of the same shards, with further settings; the caller ends it. */
  addRouter(env: Readonly<Record<string, string>>): Promise<RouterAddress & AsyncDisposable>;
  createEvent(fields: EventFields): Promise<Event>;
  /** Makes many at once, in the databases: ten thousand in about a second. They are spread over the shards evenly. */
  createEvents(count: number, fields: EventFields): Promise<EventId[]>;
  readEvent(id: string): Promise<Event>;
  audit(): Promise<AuditReport>;
  /** Routers, nodes and databases that have ended since the start, in words: figures of such a run say nothing. */
  ended(): string[];
}

const MAIN = fileURLToPath(new URL("../deploy/embedded/main.ts", import.meta.url));
const SECRET = "a-secret-that-only-the-benchmark-uses-0000";
const READY_MAX_MS = 90_000;
const STOP_MAX_MS = 60_000;

/** Boots it and waits until it is ready. Throws, with what it said, when it does not become ready. */
export async function startBenchCluster(
  options: { signal: AbortSignal; progress: Progress } & ClusterOptions,
): Promise<BenchCluster> {
  const { signal, progress, shards = 2, routers = 1, env = {} } = options;
  progress.show("booting a cluster");
  await using booted = new AsyncDisposableStack();
  const dataDir = mkdtempSync(join(tmpdir(), "onsale-bench-"));
  booted.defer(() => removeData(dataDir));
  booted.use(await boot(dataDir, { shards, env, signal }));

  const file = readClusterFile(dataDir);
  const all = [file.router];
  while (all.length < routers) {
    const more = await startRouter(`router ${all.length + 1}`, { dataDir, file, secret: SECRET, signal });
    booted.use(more);
    all.push(more);
  }
  const { router, catalogUrl, redisUrl } = file;
  const running = booted.move();
  return {
    router,
    routers: all,
    shards: file.shards,
    redis: redisUrl === null ? undefined : { url: redisUrl, pid: redisPidIn(dataDir) },
    dataDir,
    secret: SECRET,
    addRouter: async (env) => startRouter("router", { dataDir, file, secret: SECRET, signal, env }),
    createEvent: async (fields) => createEvent(router.url, SECRET, fields),
    createEvents: async (count, fields) => makeEvents(file.shards, count, fields),
    readEvent: async (id) => readEvent(router.url, id),
    audit: async () => audit(catalogUrl),
    ended: () =>
      [
        ...all.map(({ pid }, index) => ({ name: `router ${index + 1}`, pid })),
        ...file.shards.flatMap(({ id, nodePid, postgresPid }) => [
          { name: `the node of ${id}`, pid: nodePid },
          { name: `the PostgreSQL of ${id}`, pid: postgresPid },
        ]),
      ].flatMap(({ name, pid }) => (commandOf(pid) === undefined ? [`${name} (pid ${pid})`] : [])),
    [Symbol.asyncDispose]: async () => running.disposeAsync(),
  };
}

/** `npm start`, until it says that it is ready. */
async function boot(
  dataDir: string,
  { shards, env, signal }: Required<Pick<ClusterOptions, "shards" | "env">> & { signal: AbortSignal },
): Promise<AsyncDisposable> {
  const child = spawn(process.execPath, [MAIN], {
    env: {
      ...process.env,
      HOST: "127.0.0.1",
      PORT: "0",
      ADMIN_PORT: "0",
      DATA_DIR: dataDir,
      SHARDS: String(shards),
      AUTH_JWT_SECRET: SECRET,
      REDIS_URL: "",
      // It takes processor time from what is measured.
      READ_SIDE: "off",
      LOG_LEVEL: "warn",
      ...env,
    },
    // Ctrl-C is for the benchmark alone: it ends the cluster when it has let go of it.
    detached: true,
    stdio: ["ignore", "pipe", "pipe"],
  });
  const exited = once(child, "exit");
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (piece: Buffer) => (output = (output + piece.toString()).slice(-20_000)));
  }
  // Whatever ends this process, the cluster gets the word to end too.
  const endWithUs = () => child.kill("SIGTERM");
  process.once("exit", endWithUs);
  const stop = async (): Promise<void> => {
    child.kill("SIGTERM");
    const late = sleep(STOP_MAX_MS, "late", { ref: false });
    if ((await Promise.race([exited, late])) === "late")
      throw new Error(`the cluster does not stop (pid ${child.pid}, ${dataDir}):\n${output}`);
    process.off("exit", endWithUs);
    // Somebody else may have ended it, and then nobody has ended what it had started.
    if (child.exitCode !== 0) await new ProcessNotes(dataDir).endLeftovers();
  };
  try {
    const deadline = performance.now() + READY_MAX_MS;
    while (!output.includes("onsale is ready.")) {
      signal.throwIfAborted();
      if (child.exitCode !== null || child.signalCode !== null || performance.now() > deadline)
        throw new Error(`the cluster did not start:\n${output}`);
      await sleep(50);
    }
    return { [Symbol.asyncDispose]: stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** The databases lie elsewhere when root runs the cluster and their user cannot get to DATA_DIR. */
function removeData(dataDir: string): void {
  const { databasesId } = readState(dataDir);
  if (databasesId !== undefined)
    rmSync(join("/var/lib/onsale", databasesId), { recursive: true, force: true });
  rmSync(dataDir, { recursive: true, force: true });
}
