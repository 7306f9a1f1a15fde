/** Runs this project's own processes: migrations, then a node for each shard, then a router and a read side. */
import { fileURLToPath } from "node:url";
import { Agent, request } from "undici";
import type { ProcessSpec } from "./supervisor.ts";

export type Environment = Readonly<Record<string, string | undefined>>;

/** A role drains before it ends, and gives up a little earlier than this (shared/process/lifecycle.ts). */
const STOP_MAX_MS = 22_000;
const READY_MAX_MS = 30_000;
const PROBE_MAX_MS = 2_000;

/**
 * A rush makes short-lived objects by the million. With V8's and malloc's defaults a router grows beyond 300 MB before much
 * is collected (npm run bench -- memory): the heap's growth depends on its limit, and malloc keeps an arena per thread.
 * Young objects get 32 MB; most are dead before that is full, which saves a router a fifth of its processor time
 * (docs/performance.md). package.json has the same flags.
 */
const HEAP_BOUNDS = ["--max-old-space-size=1024", "--max-semi-space-size=32"];

type Role = "router" | "shard-node" | "read-side";

export const scriptOf = (role: Role | "migrations") =>
  fileURLToPath(new URL(`../../${role}/main.ts`, import.meta.url));

/**
 * A process of this project. Its environment has all its settings. It is ready when its admin port says so, or already when
 * it is alive.
 */
export function roleSpec(
  role: Role,
  name: string,
  adminUrl: string,
  env: Environment,
  readyWhen: "ready" | "alive" = "ready",
): ProcessSpec {
  return {
    name,
    program: process.execPath,
    args: [...HEAP_BOUNDS, scriptOf(role)],
    env: { ...env, MALLOC_ARENA_MAX: "2" },
    channel: true,
    stopSignal: "SIGTERM",
    stopMaxMs: STOP_MAX_MS,
    readyMaxMs: READY_MAX_MS,
    isReady: () => saysYes(`${adminUrl}/${readyWhen === "ready" ? "readyz" : "healthz"}`),
  };
}

/** Its own connections: the environment may send the process-wide ones through a proxy. */
export const http = new Agent({
  headersTimeout: PROBE_MAX_MS,
  bodyTimeout: PROBE_MAX_MS,
  keepAliveTimeout: 100,
});

async function saysYes(url: string): Promise<boolean> {
  try {
    const { statusCode, body } = await request(url, { dispatcher: http });
    await body.dump();
    return statusCode === 200;
  } catch {
    return false; // not listening yet
  }
}
