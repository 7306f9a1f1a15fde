/** The admin port of a process: is it alive, can it serve, what does it measure. Never reachable on the public port. */
import Fastify from "fastify";
import type { Registry } from "./metrics.ts";

export interface AdminServer {
  readonly url: string;
  close(): Promise<void>;
}

/** `unready` says why the process cannot serve now, or undefined when it can. */
export async function startAdminServer(options: {
  host: string;
  port: number;
  registry: Registry;
  unready: () => string | undefined;
}): Promise<AdminServer> {
  const app = Fastify({ forceCloseConnections: true });
  app.get("/healthz", () => ({ status: "alive" }));
  app.get("/readyz", async (_request, reply) => {
    const reason = options.unready();
    return reason === undefined ? { status: "ready" } : reply.code(503).send({ status: "unready", reason });
  });
  app.get("/metrics", async (_request, reply) =>
    reply.type(options.registry.contentType).send(await options.registry.metrics()),
  );
  const url = await app.listen({ host: options.host, port: options.port });
  return { url, close: async () => app.close() };
}
