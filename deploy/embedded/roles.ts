/** How this project's own processes are run: one node a shard, one router, and the migrations before them. */
import { fileURLToPath } from "node:url";
import { Agent, request } from "undici";
import type { ProcessSpec } from "./supervisor.ts";

export type Environment = Readonly<Record<string, string | undefined>>;

/** A role drains before it ends; it gives up by itself a little earlier than this (shared/process/lifecycle.ts). */
const STOP_MAX_MS = 22_000;
const READY_MAX_MS = 30_000;
const PROBE_MAX_MS = 2_000;

/**
 * A rush makes short-lived objects by the million. V8 lets its heap grow by a factor that depends on the most it may have,
 * and malloc keeps an arena per thread: with the defaults a router goes beyond 300 MB before much is collected
 * (npm run bench -- memory). Young objects have 32 MB: most objects of a rush are dead before
 * that is full, which saves a router a fifth of its processor time (docs/performance.md). The scripts in package.json give
 * the same flags.
 */
const HEAP_BOUNDS = ["--max-old-space-size=1024", "--max-semi-space-size=32"];

export const scriptOf = (role: "router" | "shard-node" | "migrations") =>
  fileURLToPath(new URL(`../../${role}/main.ts`, import.meta.url));

/** A process of this project, told everything by its environment. Ready when its admin port says so. */
export function roleSpec(
  role: "router" | "shard-node",
  name: string,
  adminUrl: string,
  env: Environment,
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
    isReady: () => saysReady(adminUrl),
  };
}

/** Our own connections, not the process-wide ones: those may be sent through a proxy by the environment. */
export const http = new Agent({
  headersTimeout: PROBE_MAX_MS,
  bodyTimeout: PROBE_MAX_MS,
  keepAliveTimeout: 100,
});

async function saysReady(adminUrl: string): Promise<boolean> {
  try {
    const { statusCode, body } = await request(`${adminUrl}/readyz`, { dispatcher: http });
    await body.dump();
    return statusCode === 200;
  } catch {
    return false; // not listening yet
  }
}
