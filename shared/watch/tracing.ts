/**
 * Traces of requests through router, node and database (OpenTelemetry). W3C Trace Context carries a trace from one process to
 * the next. Tracing is off unless a collector is configured, and then only a fraction of the requests is sampled. The others
 * have no span, so code takes `Span | undefined` as an argument. A context of the runtime would cost every request something.
 */

/** Nothing of a buyer: no user, no token, no idempotency key. */
export type SpanAttributes = Readonly<Record<string, string | number | boolean>>;

/** The headers that name a span to another process (W3C Trace Context, https://www.w3.org/TR/trace-context/). */
export interface TraceHeaders {
  readonly traceparent: string;
  readonly tracestate?: string | undefined;
}

/** A piece of work in a sampled trace. */
export interface Span {
  readonly traceId: string;
  child(name: string, kind: SpanKind, attributes?: SpanAttributes): Span;
  rename(name: string): void;
  set(attributes: SpanAttributes): void;
  /** Points at a span of another trace. Work for several requests at once is in the trace of one of them only. */
  link(other: Span): void;
  /** `type` comes from a closed set (OpenTelemetry semantic conventions, error.type). */
  failed(type: string): void;
  end(): void;
  headers(): TraceHeaders;
}
/** server: this process answers another. client: this process calls another. internal: neither. */
export type SpanKind = "server" | "client" | "internal";

/** The trace of a client's request that is sampled, or that came with a trace. */
export interface RequestTrace {
  readonly traceId: string;
  /** undefined when the request is not sampled. */
  readonly span: Span | undefined;
}

/** The headers of a request. Malformed headers of a trace are ignored. */
export type IncomingHeaders = Readonly<Record<string, unknown>>;

export interface Tracing {
  /** Starts the span of a client's request. The client's trace decides whether it is sampled, without one the ratio does. */
  begin(headers: IncomingHeaders, name: string): RequestTrace | undefined;
  /** The sampled span of the calling process, as the parent of spans here. */
  remote(headers: IncomingHeaders): Span | undefined;
  /** Sends the ended spans, but waits for a short time only. */
  close(): Promise<void>;
}

export interface TracedService {
  readonly name: "onsale-router" | "onsale-shard-node" | "onsale-read-side";
  readonly attributes?: SpanAttributes;
}

/** The span of work for several requests: a child of `parent`, linked with the span of each request in both directions. */
export function spanForMany(
  parent: Span,
  members: Iterable<Span>,
  [name, kind, attributes]: Parameters<Span["child"]>,
): Span {
  const span = parent.child(name, kind, attributes);
  for (const member of members) {
    span.link(member);
    if (member !== parent) member.link(span);
  }
  return span;
}
