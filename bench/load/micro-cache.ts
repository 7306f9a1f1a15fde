/**
 * nginx in front of a router with a micro-cache, as one would set it up for reads: an answer is kept for a second, one
 * request at a time renews it, and meanwhile the others get the one that was kept (nginx documentation,
 * ngx_http_proxy_module: proxy_cache, proxy_cache_lock, proxy_cache_use_stale, proxy_cache_background_update).
 */
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { chooseFreePort } from "../../deploy/embedded/ports.ts";
import { startProgram } from "../baselines/program.ts";
import type { SameServer } from "./run.ts";

/** nginx on PATH, or where Debian installs it, if it is installed. */
export function findNginx(): string | undefined {
  const directories = [...(process.env["PATH"] ?? "").split(delimiter), "/usr/sbin", "/usr/local/sbin"];
  return directories.map((directory) => join(directory, "nginx")).find((file) => existsSync(file));
}

/** Starts one with a single worker, kept on `core`. `pid` is its parent's. Throws when it does not become ready. */
export async function startMicroCache(
  program: string,
  upstream: string,
  options: { signal: AbortSignal; core: number },
): Promise<SameServer> {
  const directory = mkdtempSync(join(tmpdir(), "onsale-nginx-"));
  const port = await chooseFreePort(new Set());
  for (const name of ["cache", "temp"]) mkdirSync(join(directory, name));
  writeFileSync(join(directory, "nginx.conf"), configuration(port, new URL(upstream).host, directory));
  const started = await startProgram({
    name: "nginx",
    command: [program, "-p", directory, "-c", join(directory, "nginx.conf")],
    env: {},
    directory,
    core: options.core,
    signal: options.signal,
    isReady: async () =>
      fetch(`http://127.0.0.1:${port}/ready`).then(
        ({ ok }) => ok,
        () => false,
      ),
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

function configuration(port: number, upstream: string, directory: string): string {
  return `
${process.getuid?.() === 0 ? "user root;" : ""}
daemon off;
worker_processes 1;
pid ${directory}/nginx.pid;
error_log stderr error;
events { worker_connections 4096; }
http {
  access_log off;
  tcp_nodelay on;
  keepalive_requests 1000000000;
  client_body_temp_path ${directory}/temp;
  proxy_temp_path ${directory}/temp;
  fastcgi_temp_path ${directory}/temp;
  uwsgi_temp_path ${directory}/temp;
  scgi_temp_path ${directory}/temp;
  open_file_cache max=10000;
  proxy_cache_path ${directory}/cache keys_zone=events:10m use_temp_path=off;
  upstream router { server ${upstream}; keepalive 16; }
  server {
    listen 127.0.0.1:${port} backlog=1024;
    location = /ready { return 200; }
    location / {
      proxy_pass http://router;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_cache events;
      proxy_cache_valid 200 1s;
      proxy_cache_lock on;
      proxy_cache_use_stale updating error timeout;
      proxy_cache_background_update on;
    }
  }
}
`;
}
