/** A real Redis for tests. */
import { existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import { Redis } from "ioredis";

/** The Redis or Valkey server on PATH, if there is one. */
export function findRedisServer(): string | undefined {
  const directories = [...(process.env["PATH"] ?? "").split(delimiter), "/usr/bin", "/usr/sbin"];
  const candidates = directories.flatMap((directory) =>
    ["redis-server", "valkey-server"].map((name) => join(directory, name)),
  );
  return candidates.find((candidate) => existsSync(candidate));
}

/** Resolves when the Redis at this port answers. */
export async function waitForPort(port: number): Promise<void> {
  const retryStrategy = (attempt: number) => (attempt < 1_000 ? 10 : null);
  const redis = new Redis(port, "127.0.0.1", { maxRetriesPerRequest: null, retryStrategy });
  redis.on("error", () => undefined); // Until the server listens.
  await redis.ping();
  redis.disconnect();
}
