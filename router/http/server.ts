/** The HTTP server of a router: the app, the bound on connections, and the responses to bytes that are no request. */
import type { Server } from "node:http";
import { createHttpServer } from "../../shared/process/http-server.ts";
import type { Tracing } from "../../shared/watch/tracing.ts";
import { type AppParts, badRequestResponse, createRouterApp } from "./app.ts";
import { withCors } from "./cors.ts";
import { answerWhatIsNotHttp } from "./not-http.ts";
import { PROBLEMS } from "./problems.ts";
import { traced } from "./request-trace.ts";

export type ServerParts = AppParts & {
  /** undefined when tracing is off. */
  readonly tracing: Tracing | undefined;
  readonly connectionsMax: number;
  /** Whose pages may use the API. */
  readonly corsOrigins: ReadonlySet<string>;
};

/** A server that does not listen yet. */
export function createRouterServer(parts: ServerParts): Server {
  const { metrics, tracing, connectionsMax, corsOrigins } = parts;
  const countRefusal = (): void =>
    metrics.http.answered("unparsable", "none", PROBLEMS.invalid_request.status, 0);
  const countPreflight = (): void => metrics.http.answered("preflight", "OPTIONS", 204, 0);
  const server = createHttpServer({
    fetch: createRouterApp(parts),
    badRequest: () => {
      countRefusal();
      return badRequestResponse();
    },
    wrap: (listener) => withCors(corsOrigins, countPreflight, traced(tracing, listener)),
  });
  server.maxConnections = connectionsMax;
  server.on("drop", () => metrics.shed("connections_full"));
  answerWhatIsNotHttp(server, countRefusal);
  return server;
}
