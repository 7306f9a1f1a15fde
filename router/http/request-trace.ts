/** The traces of requests that are under way. Most requests have none, and finding that out must cost next to nothing. */
import type { IncomingMessage, ServerResponse } from "node:http";
import type { RequestTrace, Span, Tracing } from "../../shared/watch/tracing.ts";

type Handler = (request: IncomingMessage, response: ServerResponse) => void;

const traces = new WeakMap<IncomingMessage, RequestTrace>();

/** The trace of a request that is sampled, or that came with a trace of the client's. */
export function traceOf(request: IncomingMessage): RequestTrace | undefined {
  return traces.get(request);
}

/** The request's span, if it is sampled, named by its route (OpenTelemetry semantic conventions, HTTP server spans). */
export function namedSpan(request: IncomingMessage, route: string, requestId: string): Span | undefined {
  const span = traces.get(request)?.span;
  span?.rename(`${request.method} ${route}`);
  span?.set({ "http.route": route, "onsale.request_id": requestId });
  return span;
}

/** `handle`, with a span around those requests that are sampled; `handle` itself when tracing is off. */
export function traced(tracing: Tracing | undefined, handle: Handler): Handler {
  if (tracing === undefined) return handle;
  return (request, response) => {
    const trace = tracing.begin(request.headers, request.method ?? "");
    if (trace !== undefined) {
      traces.set(request, trace);
      if (trace.span !== undefined) follow(trace.span, request, response);
    }
    handle(request, response);
  };
}

/** Says on the span what was asked, and, when the connection has the answer or is gone, what was answered. */
function follow(span: Span, request: IncomingMessage, response: ServerResponse): void {
  const { url = "", method = "", httpVersion } = request;
  span.set({
    "http.request.method": method,
    // Without the query: what stands there is not ours to pass on.
    "url.path": url.split("?", 1)[0] ?? "",
    "url.scheme": "http",
    "network.protocol.version": httpVersion,
  });
  response.once("close", () => {
    const { statusCode, headersSent, writableFinished } = response;
    if (headersSent) span.set({ "http.response.status_code": statusCode });
    if (!writableFinished) span.failed("connection_closed");
    else if (statusCode >= 500) span.failed(String(statusCode));
    span.end();
  });
}
