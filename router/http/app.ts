/** The public API: its routes, its documentation, and the problems for every other address and method. */
import { OpenAPIHono } from "@hono/zod-openapi";
import type { Fetch, HttpBindings, HttpEnv } from "../../shared/process/http-server.ts";
import { addRequestRoutes } from "./booking-requests.ts";
import { addBookingRoutes, type BookingParts } from "./bookings.ts";
import { addDocumentation } from "./documentation.ts";
import { addEventRoutes, type EventParts } from "./events.ts";
import { excerptOf, Problem } from "./problems.ts";
import { requestIdOf } from "./request-id.ts";
import { namedSpan, traceOf } from "./request-trace.ts";
import { problemResponse } from "./responses.ts";
import { type RouteParts, Routes } from "./routes.ts";
import { addWebhookRoutes } from "./webhooks.ts";
import { addViewRoutes, type ViewParts } from "./views.ts";

export type AppParts = RouteParts &
  EventParts &
  BookingParts &
  ViewParts & {
    /** Whether the API serves its own description. */
    readonly documentation: boolean;
  };

const UNMATCHED = "unmatched";

export function createRouterApp(parts: AppParts): Fetch {
  const app = new OpenAPIHono<HttpEnv>({ getPath: pathOf });
  const routes = new Routes(app, parts);
  addEventRoutes(routes, parts);
  addBookingRoutes(routes, parts);
  addRequestRoutes(routes, parts);
  addWebhookRoutes(routes, parts);
  addViewRoutes(routes, parts);
  if (parts.documentation) addDocumentation(app);

  const methods = new Set(app.routes.map(({ method }) => method));
  const problemAt = (method: string, path: string): Problem => {
    // Every other method on a known address is 405 with `Allow` (RFC 9110 §15.5.6).
    const allowed = [...methods].filter((known) => app.router.match(known, path)[0].length > 0);
    // A route may match and still find nothing for this client.
    if (allowed.length === 0 || allowed.includes(method === "HEAD" ? "GET" : method))
      return new Problem("not_found", `Nothing is at ${method} ${excerptOf(path)}.`);
    const allow = [...allowed, ...(allowed.includes("GET") ? ["HEAD"] : [])].sort().join(", ");
    return new Problem("method_not_allowed", `Use ${allow} here.`, {}, { allow });
  };
  app.notFound(({ req, env: { incoming } }) => {
    const requestId = requestIdOf(incoming);
    namedSpan(incoming, UNMATCHED, requestId);
    const problem = problemAt(req.method, req.path);
    const response = problemResponse(problem, requestId, traceOf(incoming)?.traceId);
    parts.metrics.http.answered(UNMATCHED, incoming.method ?? "", response.status, 0);
    return response;
  });
  return app.fetch;
}

/** The path as Node.js read it. Hono would take it from a URL that the adapter first has to put together. */
function pathOf(_request: Request, options?: { env?: object }): string {
  const { url = "/" } = (options as { env: HttpBindings }).env.incoming;
  // Clients of proxies send the absolute form (RFC 9112 §3.2.2).
  if (!url.startsWith("/")) return URL.canParse(url) ? new URL(url).pathname : url;
  const query = url.indexOf("?");
  return query < 0 ? url : url.slice(0, query);
}
