/**
 * How a server stops: no new connections, requests under way finish, and a client that is too slow is cut off. Closing a
 * server ends the connections that are idle at that moment; those that become idle later would stay until their
 * keep-alive ends, so they are ended here (Node.js manual, http.Server.close and closeIdleConnections).
 */
import type { FastifyInstance } from "fastify";

const REQUESTS_MAX_MS = 10_000;
const IDLE_CHECK_MS = 20;

export async function drain(app: FastifyInstance): Promise<void> {
  const closing = app.close();
  const idle = setInterval(() => app.server.closeIdleConnections(), IDLE_CHECK_MS);
  const cutOff = setTimeout(() => app.server.closeAllConnections(), REQUESTS_MAX_MS);
  await closing;
  clearInterval(idle);
  clearTimeout(cutOff);
}
