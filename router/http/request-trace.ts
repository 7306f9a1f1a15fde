/** The traces of requests under way. Most requests have none, so the look-up must cost next to nothing. */
import type { IncomingMessage, RequestListener, ServerResponse } from "node:http";
import type { RequestTrace, Span, Tracing } from "../../shared/watch/tracing.ts";

const traces = new WeakMap<IncomingMessage, RequestTrace>();

/** The trace of a request that is sampled or whose client sent a trace. */
export function traceOf(request: IncomingMessage): RequestTrace | undefined {
  return traces.get(request);
}

/** The span of a sampled request, named by its route (OpenTelemetry semantic conventions, HTTP server spans). */
export function namedSpan(request: IncomingMessage, route: string, requestId: string): Span | undefined {
  const span = traces.get(request)?.span;
  span?.rename(`${request.method} ${route}`);
  span?.set({ "http.route": route, "onsale.request_id": requestId });
  return span;
}

/** Puts a span around each sampled request. Returns `handle` itself when tracing is off. */
export function traced(tracing: Tracing | undefined, handle: RequestListener): RequestListener {
  if (tracing === undefined) return handle;
  return (request, response) => {
    const trace = tracing.begin(request.headers, request.method ?? "");
    if (trace !== undefined) {
      traces.set(request, trace);
      if (trace.span !== undefined) describe(trace.span, request, response);
    }
    handle(request, response);
  };
}

/** Writes the request on the span, and ends the span with the response when the connection has sent or lost it. */
function describe(span: Span, request: IncomingMessage, response: ServerResponse): void {
  const { url = "", method = "", httpVersion } = request;
  span.set({
    "http.request.method": method,
    // Without the query, which may hold what nobody else should see.
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
