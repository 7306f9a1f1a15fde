/** The admin port of a process: `/healthz`, `/readyz` and `/metrics`. The public port never serves them. */
import { Hono } from "hono";
import { createHttpServer, listen } from "../process/http-server.ts";
import type { Registry } from "./metrics.ts";

/** Many times what health checks and Prometheus need. */
const CONNECTIONS_MAX = 1_000;
/** The reason of a process that was told to stop, and serves on until its callers have turned to others. */
export const DRAINING = "draining";

export interface AdminServer {
  readonly url: string;
  close(): Promise<void>;
}

/** `unready` returns the reason why the process cannot serve now, or undefined. */
export async function startAdminServer(options: {
  host: string;
  port: number;
  registry: Registry;
  unready: () => string | undefined;
}): Promise<AdminServer> {
  const app = new Hono();
  app.get("/healthz", (context) => context.json({ status: "alive" }));
  app.get("/readyz", (context) => {
    const reason = options.unready();
    if (reason === undefined) return context.json({ status: "ready" });
    // A load balancer that asks so tells a server that leaves (404) from one that is broken: HAProxy's disable-on-404.
    const isTold = reason === DRAINING && context.req.query("draining") === "404";
    return context.json({ status: "unready", reason }, isTold ? 404 : 503);
  });
  app.get("/metrics", async (context) =>
    context.body(await options.registry.metrics(), 200, { "content-type": options.registry.contentType }),
  );
  const server = createHttpServer({
    fetch: app.fetch,
    refuse: () => ({ status: 400, headers: {}, body: "" }),
    connectionsMax: CONNECTIONS_MAX,
  });
  const url = await listen(server, options);
  return {
    url,
    async close() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeAllConnections();
      await closed;
    },
  };
}
