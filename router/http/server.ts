/** The HTTP server of a router: its app, its bounds on connections, and what it does with bytes that are no request. */
import type { Server } from "node:http";
import { createHttpServer } from "../../shared/process/http-server.ts";
import { PROBLEMS } from "./problems.ts";
import type { RouterParts } from "./parts.ts";
import { answerBadRequest, createRouterApp } from "./app.ts";
import { answerWhatIsNotHttp } from "./not-http.ts";
import { traced } from "./request-trace.ts";

/** A server that answers clients; it does not listen yet. */
export function createRouterServer(parts: RouterParts): Server {
  const { metrics, tracing, connectionsMax } = parts;
  const refused = (): void => metrics.http.answered("unparsable", "none", PROBLEMS.invalid_request.status, 0);
  const server = createHttpServer({
    fetch: createRouterApp(parts),
    badRequest: () => {
      refused();
      return answerBadRequest();
    },
    wrap: (listener) => traced(tracing, listener),
  });
  server.maxConnections = connectionsMax;
  server.on("drop", () => metrics.connectionRefused());
  answerWhatIsNotHttp(server, refused);
  return server;
}
