/** The HTTP server of a router: the app, and the answers to what never becomes a request of its routes. */
import type { RequestListener, Server } from "node:http";
import { createHttpServer } from "../../shared/process/http-server.ts";
import type { Tracing } from "../../shared/watch/tracing.ts";
import { type AppParts, createRouterApp } from "./app.ts";
import { withCors } from "./cors.ts";
import { Problem, PROBLEMS } from "./problems.ts";
import { newRequestId, requestIdOf } from "./request-id.ts";
import { traced } from "./request-trace.ts";
import { problemDocument, problemHeaders } from "./responses.ts";

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
  const countPreflight = (): void => metrics.http.answered("preflight", "OPTIONS", 204, 0);
  const countWhole = (): void => metrics.http.answered("unmatched", "OPTIONS", 204, 0);
  // A cache must not give the page of one origin the answer to another.
  const always: Record<string, string> = corsOrigins.size === 0 ? {} : { vary: "origin" };
  return createHttpServer({
    fetch: createRouterApp(parts),
    refuse(why, incoming) {
      const { status } = PROBLEMS.invalid_request;
      metrics.http.answered("unparsable", incoming?.method ?? "none", status, 0);
      const requestId = incoming === undefined ? newRequestId() : requestIdOf(incoming);
      return {
        status,
        headers: { ...always, ...problemHeaders("invalid_request"), "x-request-id": requestId },
        body: JSON.stringify(problemDocument(new Problem("invalid_request", why), requestId)),
      };
    },
    wrap: (listener) =>
      withCors(corsOrigins, countPreflight, traced(tracing, withServerOptions(countWhole, listener))),
    connectionsMax,
    shed: metrics.shed,
  });
}

/** Answers `OPTIONS *`, which asks about the server as a whole (RFC 9110 §9.3.7) and has no path that an app could route. */
function withServerOptions(answered: () => void, handle: RequestListener): RequestListener {
  return (incoming, outgoing) => {
    if (incoming.url !== "*" || incoming.method !== "OPTIONS") {
      handle(incoming, outgoing);
      return;
    }
    answered();
    const headers = {
      allow: "DELETE, GET, HEAD, OPTIONS, PATCH, POST",
      "x-request-id": requestIdOf(incoming),
    };
    outgoing.writeHead(204, headers).end();
  };
}
