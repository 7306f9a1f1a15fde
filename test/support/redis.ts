/** A real Redis for tests. */
import { spawnSync } from "node:child_process";
import { execa } from "execa";
import { Redis } from "ioredis";

/** The Redis or Valkey server that can be run here, if there is one. */
export function findRedisServer(): string | undefined {
  const programs = ["redis-server", "valkey-server", "/usr/sbin/redis-server"];
  return programs.find((program) => spawnSync(program, ["--version"]).status === 0);
}

/** Starts one on this port; it has answered when this resolves. Throws where none is installed. */
export async function startRedisServer(port: number, more: readonly string[] = []) {
  const flags = ["--port", String(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", ...more];
  const child = execa(findRedisServer() ?? "redis-server", flags, { stdio: "ignore", reject: false });
  const retryStrategy = (attempt: number) => (attempt < 1_000 ? 10 : null);
  const redis = new Redis(port, "127.0.0.1", { maxRetriesPerRequest: null, retryStrategy });
  redis.on("error", () => undefined); // Until the server listens.
  await redis.ping();
  redis.disconnect();
  return {
    signal: (signal: NodeJS.Signals) => child.kill(signal),
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await child;
    },
  };
}
