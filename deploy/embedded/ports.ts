/**
 * Ports for the processes behind the router. They are chosen once and kept: the router knows its nodes, and a node its
 * database, by address.
 */
import { randomInt } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:net";
import type { Settings } from "./settings.ts";
import { StartError } from "./start-error.ts";

/**
 * Below the ports that systems give to outgoing connections (32768–60999 on Linux, 49152–65535 on macOS). Port 0 would
 * choose one of those. Then, while a process is down, a client that keeps connecting to it could be given that same port
 * as its own: it would block the restart, or be connected to itself.
 */
const LOWEST = 15_000;
const HIGHEST = 32_000;
const ATTEMPTS_MAX = 200;

/** The system's error code, such as EADDRINUSE, when this port cannot be listened on; undefined when it can. */
export async function portProblem(port: number, host: string): Promise<string | undefined> {
  const server = createServer();
  try {
    server.listen({ port, host, exclusive: true });
    await once(server, "listening");
    return undefined;
  } catch (error) {
    return error instanceof Error && "code" in error ? String(error.code) : String(error);
  } finally {
    server.close();
  }
}

/** A port that is free now and not among those already `taken`; adds it to them. */
export async function chooseFreePort(taken: Set<number>, host = "127.0.0.1"): Promise<number> {
  for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
    const port = randomInt(LOWEST, HIGHEST);
    if (taken.has(port) || (await portProblem(port, host)) !== undefined) continue;
    taken.add(port);
    return port;
  }
  throw new StartError(`no free port on ${host} between ${LOWEST} and ${HIGHEST}`);
}

/** The port that this process had before; a new one if it had none, or another program has taken it. */
export async function keptPort(
  ports: Record<string, number>,
  process: string,
  taken: Set<number>,
): Promise<number> {
  const kept = ports[process];
  const usable =
    kept !== undefined && !taken.has(kept) && (await portProblem(kept, "127.0.0.1")) === undefined;
  const port = usable ? kept : await chooseFreePort(taken);
  taken.add(port);
  ports[process] = port;
  return port;
}

/** The router's ports; a free one for each 0. Throws StartError when a port is taken or not allowed. */
export async function routerPorts(
  { HOST, PORT, ADMIN_PORT }: Settings,
  taken: Set<number>,
): Promise<{ port: number; adminPort: number }> {
  for (const [name, port] of Object.entries({ PORT, ADMIN_PORT })) {
    const problem = await portProblem(port, HOST);
    if (problem === "EADDRINUSE")
      throw new StartError(`${name} ${port} on ${HOST} is in use; set ${name} to another`);
    if (problem === "EACCES")
      throw new StartError(`${name} ${port} on ${HOST} needs more rights; set ${name} to another`);
    if (problem !== undefined)
      throw new StartError(`HOST ${HOST} is not an address of this machine (${problem})`);
    if (port !== 0) taken.add(port);
  }
  return {
    port: PORT === 0 ? await chooseFreePort(taken, HOST) : PORT,
    adminPort: ADMIN_PORT === 0 ? await chooseFreePort(taken, HOST) : ADMIN_PORT,
  };
}
