/** How a server stops: no new connections, requests under way finish, and a client that is too slow is cut off. */
import type { FastifyInstance } from "fastify";

const REQUESTS_MAX_MS = 10_000;

export async function drain(app: FastifyInstance): Promise<void> {
  const cutOff = setTimeout(() => app.server.closeAllConnections(), REQUESTS_MAX_MS);
  await app.close();
  clearTimeout(cutOff);
}
