/**
 * nginx in front of routers with the micro-cache of deploy/nginx: an answer is kept for a second, one request at a time
 * renews it, and meanwhile the others get the one that was kept.
 */
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { delimiter, join, resolve } from "node:path";
import { chooseFreePort } from "../../deploy/embedded/ports.ts";
import { startProgram } from "../baselines/program.ts";
import type { SameServer } from "./run.ts";

const CONFIGURATION = resolve(import.meta.dirname, "../../deploy/nginx/nginx.conf");

/** nginx on PATH, or where Debian installs it, if it is installed. */
export function findNginx(): string | undefined {
  const directories = [...(process.env["PATH"] ?? "").split(delimiter), "/usr/sbin", "/usr/local/sbin"];
  return directories.map((directory) => join(directory, "nginx")).find((file) => existsSync(file));
}

/** Starts one with a single worker, kept on `core`, in front of the routers at these addresses. `pid` is its parent's. Throws when it does not become ready. */
export async function startMicroCache(
  program: string,
  upstreams: readonly string[],
  options: { signal: AbortSignal; core?: number },
): Promise<SameServer> {
  const directory = mkdtempSync(join(tmpdir(), "onsale-nginx-"));
  const port = await chooseFreePort(new Set());
  chmodSync(directory, 0o755); // workers that root starts run as another user
  writeFileSync(join(directory, "nginx.conf"), configuration(port, upstreams));
  const started = await startProgram({
    name: "nginx",
    command: [program, "-e", "stderr", "-p", directory, "-c", "nginx.conf"],
    env: {},
    directory,
    core: options.core,
    signal: options.signal,
    // Not by a request: there may be no router behind it.
    isReady: async () =>
      new Promise((resolve) => {
        const socket = connect(port, "127.0.0.1");
        socket.once("error", () => resolve(false));
        socket.once("connect", () => resolve(socket.destroy().destroyed));
      }),
  });
  return {
    host: "127.0.0.1",
    port,
    pid: started.pid,
    async [Symbol.asyncDispose]() {
      await started[Symbol.asyncDispose]();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

/** The deployment's own configuration, with other addresses and one worker. Throws when it no longer says what is replaced. */
function configuration(port: number, upstreams: readonly string[]): string {
  const servers = upstreams.map((url) => `server ${new URL(url).host}$1;`);
  const replacements = [
    [/^worker_processes auto;$/m, "worker_processes 1;"],
    [/^ +server 127[\d.:]+( [^;]+);\n +server 127[^;]+;$/m, servers.join("\n")],
    [/listen 127\.0\.0\.1:8000 /, `listen 127.0.0.1:${port} `],
  ] as const;
  return replacements.reduce(
    (text, [found, replacement]) => {
      if (!found.test(text)) throw new Error(`deploy/nginx/nginx.conf no longer has ${found}`);
      return text.replace(found, replacement);
    },
    readFileSync(CONFIGURATION, "utf8"),
  );
}
