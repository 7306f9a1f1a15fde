/**
 * Traces of requests through router, node and database (OpenTelemetry; W3C Trace Context carries them from one process to
 * the next). Off unless a collector is configured, and then for a fraction of the requests: a request that is not sampled
 * has no span, so all code here and elsewhere holds `Span | undefined` and hands it on as an argument. Nothing is kept in a
 * context of the runtime, which would cost every request something.
 */

/** Never anything of a buyer: no user, no token, no idempotency key. */
export type SpanAttributes = Readonly<Record<string, string | number | boolean>>;

/** How a span is named to another process: the headers of W3C Trace Context (https://www.w3.org/TR/trace-context/). */
export interface TraceHeaders {
  readonly traceparent: string;
  readonly tracestate?: string | undefined;
}

/** A piece of work in a sampled trace. */
export interface Span {
  readonly traceId: string;
  /** Where this process calls another, or answers one, or neither. */
  child(name: string, kind: SpanKind, attributes?: SpanAttributes): Span;
  rename(name: string): void;
  set(attributes: SpanAttributes): void;
  /** A relation across traces: work that was done for several requests at once belongs to one of them only. */
  link(other: Span): void;
  /** It did not do what it should; `type` is of a closed set (OpenTelemetry semantic conventions, error.type). */
  failed(type: string): void;
  end(): void;
  headers(): TraceHeaders;
}
export type SpanKind = "server" | "client" | "internal";

/** What is known of a client's request that is sampled, or that came with a trace of the client's own. */
export interface RequestTrace {
  readonly traceId: string;
  /** Only when it is sampled. */
  readonly span: Span | undefined;
}

/** Headers from another process, with a trace or without, trustworthy or not: what is malformed counts as absent. */
export type IncomingHeaders = Readonly<Record<string, unknown>>;

export interface Tracing {
  /** A client's request: its own trace is gone on with, sampled as it says; any other is sampled by the ratio. */
  begin(headers: IncomingHeaders, name: string): RequestTrace | undefined;
  /** The sampled span that another process of the cluster works on, to hang others under. */
  remote(headers: IncomingHeaders): Span | undefined;
  /** Sends what has ended, for as long as a short wait lasts. */
  close(): Promise<void>;
}

export interface TracedService {
  readonly name: "onsale-router" | "onsale-shard-node";
  readonly attributes?: SpanAttributes;
}

/** A span of work for several at once: under `parent`, linked with the span of each of them, both ways. */
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
