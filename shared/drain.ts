/**
 * How a server stops. First it serves on as ever for a grace, in which whoever sends requests here hears that it drains and
 * turns to others. Then: no new connections, requests under way finish, and a client that is too slow is cut off. Closing a
 * server ends the connections that are idle at that moment; those that become idle later would stay until their
 * keep-alive ends, so they are ended here (Node.js manual, http.Server.close and closeIdleConnections).
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { FastifyInstance } from "fastify";

const REQUESTS_MAX_MS = 10_000;
const IDLE_CHECK_MS = 20;

/** Resolves when the last request is answered. `graceMs`: see drainGraceMs in config.ts. */
export async function drain(app: FastifyInstance, graceMs: number): Promise<void> {
  await sleep(graceMs);
  const closing = app.close();
  const idle = setInterval(() => app.server.closeIdleConnections(), IDLE_CHECK_MS);
  const cutOff = setTimeout(() => app.server.closeAllConnections(), REQUESTS_MAX_MS);
  await closing;
  clearInterval(idle);
  clearTimeout(cutOff);
}
