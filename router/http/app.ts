/** The public API: its routes, its documentation, and what is told to whoever asks for anything else. */
import { OpenAPIHono } from "@hono/zod-openapi";
import { Problem } from "./problems.ts";
import type { Fetch, HttpBindings, HttpEnv } from "../../shared/process/http-server.ts";
import type { RouterParts } from "./parts.ts";
import { answerProblem } from "./answers.ts";
import { addBookingRoutes } from "./bookings.ts";
import { addDocumentation } from "./documentation.ts";
import { addEventRoutes } from "./events.ts";
import { newRequestId, requestIdOf } from "./request-id.ts";
import { namedSpan, traceOf } from "./request-trace.ts";
import { Routes } from "./routes.ts";

const UNMATCHED = "unmatched";

/** What answers the requests of clients. */
export function createRouterApp(parts: RouterParts): Fetch {
  const { metrics } = parts;
  const app = new OpenAPIHono<HttpEnv>({ getPath: pathOf });
  const routes = new Routes(app, parts);
  addEventRoutes(routes, parts);
  addBookingRoutes(routes, parts);
  addDocumentation(app);

  const refuse = ({ incoming }: HttpBindings, problem: Problem, more = {}): Response => {
    const requestId = requestIdOf(incoming);
    namedSpan(incoming, UNMATCHED, requestId);
    const response = answerProblem(problem, requestId, traceOf(incoming)?.traceId, more);
    metrics.http.answered(UNMATCHED, incoming.method ?? "", response.status, 0);
    return response;
  };
  const methods = new Set(app.routes.map(({ method }) => method));
  app.notFound(({ req, env }) => {
    // Every other method on a known address is 405 with `Allow` (RFC 9110 §15.5.6).
    const allowed = [...methods].filter((method) => app.router.match(method, req.path)[0].length > 0);
    // A route that the request did find says that nothing is there for whoever asks.
    if (allowed.length === 0 || allowed.includes(req.method === "HEAD" ? "GET" : req.method))
      return refuse(env, new Problem("not_found", `Nothing is at ${req.method} ${req.path.slice(0, 200)}.`));
    const allow = [...allowed, ...(allowed.includes("GET") ? ["HEAD"] : [])].sort().join(", ");
    return refuse(env, new Problem("method_not_allowed", `Use ${allow} here.`), { allow });
  });
  return app.fetch;
}

/** The answer to a request whose address or Host header is no URL. */
export function answerBadRequest(): Response {
  return answerProblem(new Problem("invalid_request", "The request is not valid HTTP."), newRequestId());
}

/** Node's own path: hono would cut it out of a URL that was put together for it. */
function pathOf(_request: Request, options?: { env?: object }): string {
  const { url = "/" } = (options as { env: HttpBindings }).env.incoming;
  // The absolute form, which clients of proxies send (RFC 9112 §3.2.2).
  if (!url.startsWith("/")) return URL.canParse(url) ? new URL(url).pathname : url;
  const query = url.indexOf("?");
  return query < 0 ? url : url.slice(0, query);
}
