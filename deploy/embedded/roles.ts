/** How this project's own processes are run: one node a shard, one router, and the migrations before them. */
import { fileURLToPath } from "node:url";
import { Agent, request } from "undici";
import type { ProcessSpec } from "./supervisor.ts";

export type Environment = Readonly<Record<string, string | undefined>>;

/** A role drains before it ends; it gives up by itself a little earlier than this (shared/lifecycle.ts). */
const STOP_MAX_MS = 22_000;
const READY_MAX_MS = 30_000;
const PROBE_MAX_MS = 2_000;

/**
 * A rush makes short-lived objects by the million. With V8's default young generation, and an arena of malloc per thread, a
 * router grows beyond 300 MB before anything is collected (npm run bench -- memory). package.json gives the same flag.
 */
const YOUNG_GENERATION = "--max-semi-space-size=4";

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
    args: [YOUNG_GENERATION, scriptOf(role)],
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
