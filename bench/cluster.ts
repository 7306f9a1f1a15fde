/**
 * The cluster that is measured: the one of `npm start`, with durable databases, on free ports and in a temporary
 * DATA_DIR, as its own processes. It always ends with the benchmark, and its data are removed.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { audit, type AuditReport } from "../audit/audit.ts";
import { mintToken } from "../shared/tokens.ts";
import type { Event } from "../shared/wire.ts";
import type { Progress } from "./progress.ts";

const clusterFile = z.object({
  router: z.object({ url: z.string(), adminUrl: z.string(), pid: z.number() }),
  shards: z.array(
    z.object({
      id: z.string(),
      nodeUrl: z.string(),
      nodePid: z.number(),
      databaseUrl: z.string(),
      postgresPid: z.number(),
    }),
  ),
  catalogUrl: z.string(),
});
type ClusterFile = z.infer<typeof clusterFile>;
const stateFile = z.object({ databasesId: z.string().optional() });

const MAIN = fileURLToPath(new URL("../deploy/embedded/main.ts", import.meta.url));
const SECRET = "a-secret-that-only-the-benchmark-uses-0000";
const READY_MAX_MS = 90_000;
const STOP_MAX_MS = 60_000;
const TOKEN_TTL_SECONDS = 24 * 3600;
const MINTED_AT_ONCE = 1_000;

export interface BenchCluster extends AsyncDisposable {
  readonly router: ClusterFile["router"];
  readonly shards: ClusterFile["shards"];
  readonly dataDir: string;
  /** Tokens of this many different buyers, numbered from `first`. */
  buyerTokens(count: number, first?: number): Promise<string[]>;
  createEvent(fields: { totalTickets: number; maxPerUser?: number }): Promise<Event>;
  readEvent(id: string): Promise<Event>;
  audit(): Promise<AuditReport>;
}

/** Boots it and waits until it is ready. Throws, with what it said, when it does not become ready. */
export async function startBenchCluster(options: {
  signal: AbortSignal;
  progress: Progress;
}): Promise<BenchCluster> {
  const { signal, progress } = options;
  progress.show("booting a cluster");
  const dataDir = mkdtempSync(join(tmpdir(), "onsale-bench-"));
  const child = spawn(process.execPath, [MAIN], {
    env: {
      ...process.env,
      HOST: "127.0.0.1",
      PORT: "0",
      ADMIN_PORT: "0",
      DATA_DIR: dataDir,
      AUTH_JWT_SECRET: SECRET,
      REDIS_URL: "",
      LOG_LEVEL: "warn",
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
    removeData(dataDir);
  };

  try {
    const deadline = performance.now() + READY_MAX_MS;
    for (;;) {
      signal.throwIfAborted();
      if (child.exitCode !== null || performance.now() > deadline)
        throw new Error(`the cluster did not start:\n${output}`);
      if (output.includes("onsale is ready.")) break;
      await sleep(50);
    }
    const file = clusterFile.parse(JSON.parse(readFileSync(join(dataDir, "cluster.json"), "utf8")));
    return { ...clientOf(file), dataDir, [Symbol.asyncDispose]: stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

function clientOf(file: ClusterFile): Omit<BenchCluster, "dataDir" | typeof Symbol.asyncDispose> {
  const { router, shards, catalogUrl } = file;
  const tokenOf = async (sub: string, role: "buyer" | "organizer") =>
    mintToken({ secret: SECRET, sub, role, ttlSeconds: TOKEN_TTL_SECONDS });
  const answerOf = async (response: Response): Promise<Event> => {
    if (!response.ok)
      throw new Error(`${response.url} answered ${response.status}: ${await response.text()}`);
    return (await response.json()) as Event;
  };
  return {
    router,
    shards,
    async buyerTokens(count, first = 0) {
      const tokens: string[] = [];
      while (tokens.length < count) {
        const next = Array.from(
          { length: Math.min(MINTED_AT_ONCE, count - tokens.length) },
          (_, index) => index,
        );
        const from = first + tokens.length;
        tokens.push(
          ...(await Promise.all(next.map(async (index) => tokenOf(`buyer-${from + index}`, "buyer")))),
        );
      }
      return tokens;
    },
    async createEvent(fields) {
      const headers = {
        authorization: `Bearer ${await tokenOf("bench", "organizer")}`,
        "content-type": "application/json",
      };
      const body = JSON.stringify({ name: "Benchmark", startsAt: "2099-01-01T20:00:00Z", ...fields });
      return answerOf(await fetch(`${router.url}/v1/events`, { method: "POST", headers, body }));
    },
    readEvent: async (id) => answerOf(await fetch(`${router.url}/v1/events/${id}`)),
    audit: async () => audit(catalogUrl),
  };
}

/** The databases lie elsewhere when root runs the cluster and their user cannot get to DATA_DIR. */
function removeData(dataDir: string): void {
  const { databasesId } = stateFile.parse(JSON.parse(readFileSync(join(dataDir, "state.json"), "utf8")));
  if (databasesId !== undefined)
    rmSync(join("/var/lib/onsale", databasesId), { recursive: true, force: true });
  rmSync(dataDir, { recursive: true, force: true });
}
