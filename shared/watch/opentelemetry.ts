/** Sends spans to a collector by OTLP over HTTP (tracing.ts). The only door to OpenTelemetry's packages. */
import { setTimeout as sleep } from "node:timers/promises";
import {
  type Context,
  defaultTextMapGetter,
  defaultTextMapSetter,
  ROOT_CONTEXT,
  type Span as OpenTelemetrySpan,
  type SpanContext,
  SpanKind as Kind,
  SpanStatusCode,
  trace,
  TraceFlags,
  type Tracer,
} from "@opentelemetry/api";
import { type ExportResult, ExportResultCode, W3CTraceContextPropagator } from "@opentelemetry/core";
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-http";
import { detectResources, envDetector, resourceFromAttributes } from "@opentelemetry/resources";
import {
  AlwaysOnSampler,
  BatchSpanProcessor,
  type ReadableSpan,
  type SpanExporter,
  type SpanProcessor,
  TracerProvider,
} from "@opentelemetry/sdk-trace";
import type { Log } from "../process/log.ts";
import { instruments, type Registry } from "./metrics.ts";
import { Outage } from "../process/outage.ts";
import type {
  IncomingHeaders,
  RequestTrace,
  Span,
  SpanAttributes,
  SpanKind,
  TracedService,
  TraceHeaders,
  Tracing,
} from "./tracing.ts";

/** Ended spans that wait for the collector. Further spans are dropped. */
const QUEUE_MAX = 2_048;
const EXPORT_BATCH_MAX = 512;
const EXPORT_EVERY_MS = 1_000;
/** One export, with all its tries. */
const EXPORT_MAX_MS = 5_000;
/** The processor waits this much longer, so that the exporter gives up first and says why. */
const EXPORT_SLACK_MS = 1_000;
const CLOSE_MAX_MS = 2_000;
/** Links of one span. Further links are dropped. */
const LINKS_MAX = 128;
const ATTRIBUTE_CHARACTERS_MAX = 1_024;

const KINDS: Readonly<Record<SpanKind, Kind>> = {
  server: Kind.SERVER,
  client: Kind.CLIENT,
  internal: Kind.INTERNAL,
};

const w3c = new W3CTraceContextPropagator();

export interface OpenTelemetryOptions {
  readonly url: string;
  /** 0 to 1. */
  readonly ratio: number;
  readonly service: TracedService;
  readonly log: Log;
  readonly registry: Registry;
}

export function startOpenTelemetry({ url, ratio, service, log, registry }: OpenTelemetryOptions): Tracing {
  const spans: CountSpans = instruments(registry).counters(
    "onsale_trace_spans_total",
    "Spans that ended, and what became of their export; those that neither wait nor were exported or lost were dropped",
    "state",
    ["ended", "exported", "lost"],
  );
  const exporter = new OTLPTraceExporter({
    url,
    timeoutMillis: EXPORT_MAX_MS,
    // One export at a time, but at the end all waiting spans at once.
    concurrencyLimit: 1 + QUEUE_MAX / EXPORT_BATCH_MAX,
  });
  const provider = new TracerProvider({
    resource: resourceFromAttributes({
      "service.name": service.name,
      "service.instance.id": crypto.randomUUID(),
      ...service.attributes,
    }).merge(detectResources({ detectors: [envDetector] })),
    // `begin` decides whether to sample before it makes a span, so a request that is not sampled costs nothing.
    sampler: new AlwaysOnSampler(),
    spanLimits: { linkCountLimit: LINKS_MAX, attributeValueLengthLimit: ATTRIBUTE_CHARACTERS_MAX },
    spanProcessors: [
      new EndedSpans(() => spans("ended")),
      new BatchSpanProcessor({
        exporter: new WatchedExporter(exporter, new Outage(log, "the collector of traces"), spans),
        maxQueueSize: QUEUE_MAX,
        maxExportBatchSize: EXPORT_BATCH_MAX,
        scheduledDelayMillis: EXPORT_EVERY_MS,
        exportTimeoutMillis: EXPORT_MAX_MS + EXPORT_SLACK_MS,
      }),
    ],
  });
  const tracer = provider.getTracer("onsale");
  return {
    begin(headers, name): RequestTrace | undefined {
      const parent = headers["traceparent"] === undefined ? undefined : contextFrom(headers);
      if (parent === undefined) {
        if (Math.random() >= ratio) return undefined;
      } else if (!isSampled(parent.span)) {
        return { traceId: parent.span.traceId, span: undefined };
      }
      const options = { kind: Kind.SERVER };
      const span = new TracedSpan(tracer, tracer.startSpan(name, options, parent?.context ?? ROOT_CONTEXT));
      return { traceId: span.traceId, span };
    },
    remote(headers) {
      const caller = contextFrom(headers);
      if (caller === undefined || !isSampled(caller.span)) return undefined;
      return new TracedSpan(tracer, trace.wrapSpanContext(caller.span));
    },
    async close() {
      const closed = provider.shutdown().catch(() => undefined);
      await Promise.race([closed, sleep(CLOSE_MAX_MS, undefined, { ref: false })]);
    },
  };
}

function contextFrom(headers: IncomingHeaders): { context: Context; span: SpanContext } | undefined {
  const context = w3c.extract(ROOT_CONTEXT, headers, defaultTextMapGetter);
  const span = trace.getSpanContext(context);
  return span && { context, span };
}

function isSampled({ traceFlags }: SpanContext): boolean {
  return (traceFlags & TraceFlags.SAMPLED) !== 0;
}

class TracedSpan implements Span {
  readonly #tracer: Tracer;
  readonly #span: OpenTelemetrySpan;

  constructor(tracer: Tracer, span: OpenTelemetrySpan) {
    this.#tracer = tracer;
    this.#span = span;
  }

  get traceId(): string {
    return this.#span.spanContext().traceId;
  }

  child(name: string, kind: SpanKind, attributes: SpanAttributes = {}): Span {
    const options = { kind: KINDS[kind], attributes };
    return new TracedSpan(this.#tracer, this.#tracer.startSpan(name, options, this.#context));
  }

  rename(name: string): void {
    this.#span.updateName(name);
  }

  set(attributes: SpanAttributes): void {
    this.#span.setAttributes(attributes);
  }

  link(other: TracedSpan): void {
    this.#span.addLink({ context: other.#span.spanContext() });
  }

  failed(type: string): void {
    this.#span.setAttribute("error.type", type).setStatus({ code: SpanStatusCode.ERROR });
  }

  end(): void {
    this.#span.end();
  }

  headers(): TraceHeaders {
    const headers = { traceparent: "" };
    w3c.inject(this.#context, headers, defaultTextMapSetter);
    return headers;
  }

  get #context(): Context {
    return trace.setSpan(ROOT_CONTEXT, this.#span);
  }
}

type CountSpans = (state: "ended" | "exported" | "lost", count?: number) => void;

/** Counts every ended span, also those that the full queue drops. */
class EndedSpans implements SpanProcessor {
  readonly onEnd: () => void;

  constructor(ended: () => void) {
    this.onEnd = ended;
  }

  onStart(): void {}

  async forceFlush(): Promise<void> {}

  async shutdown(): Promise<void> {}
}

/** Counts exported and lost spans. Logs when an outage of the collector begins and ends; only spans are lost meanwhile. */
class WatchedExporter implements SpanExporter {
  readonly #exporter: SpanExporter;
  readonly #collector: Outage;
  readonly #count: CountSpans;

  constructor(exporter: SpanExporter, collector: Outage, count: CountSpans) {
    this.#exporter = exporter;
    this.#collector = collector;
    this.#count = count;
  }

  export(spans: ReadableSpan[], done: (result: ExportResult) => void): void {
    this.#exporter.export(spans, (result) => {
      const exported = result.code === ExportResultCode.SUCCESS;
      this.#count(exported ? "exported" : "lost", spans.length);
      if (exported) this.#collector.worked();
      else this.#collector.failed(result.error ?? "the export failed");
      done(result);
    });
  }

  async shutdown(): Promise<void> {
    await this.#exporter.shutdown();
  }
}
