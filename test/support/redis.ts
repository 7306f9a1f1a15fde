/** A real Redis for tests. */
import { existsSync } from "node:fs";
import { connect } from "node:net";
import { delimiter, join } from "node:path";
import { eventually } from "./eventually.ts";

/** The Redis or Valkey server on PATH, if there is one. */
export function findRedisServer(): string | undefined {
  const directories = [...(process.env["PATH"] ?? "").split(delimiter), "/usr/bin", "/usr/sbin"];
  const candidates = directories.flatMap((directory) =>
    ["redis-server", "valkey-server"].map((name) => join(directory, name)),
  );
  return candidates.find((candidate) => existsSync(candidate));
}

/** Resolves when something accepts connections at the port. */
export async function waitForPort(port: number): Promise<void> {
  await eventually(`port ${port} accepts connections`, async () => {
    const socket = connect(port, "127.0.0.1");
    try {
      return await new Promise<boolean>((resolve) => {
        socket.once("connect", () => resolve(true)).once("error", () => resolve(false));
      });
    } finally {
      socket.destroy();
    }
  });
}
