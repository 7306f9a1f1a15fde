/** A collector of traces: takes OTLP over HTTP (JSON) and keeps the spans as tests look at them. */
import type { ServerResponse } from "node:http";
import { json } from "node:stream/consumers";
import { serve } from "./listen.ts";

const KINDS = ["unspecified", "internal", "server", "client"] as const;

type Value = string | number | boolean | undefined;
type Attributes = readonly { readonly key: string; readonly value: Readonly<Record<string, Value>> }[];

interface Span {
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId?: string;
  readonly traceState?: string;
  readonly name: string;
  readonly links: readonly { readonly traceId: string; readonly spanId: string }[];
  readonly status: { readonly code: number };
}

/** OTLP 1.x, ExportTraceServiceRequest (opentelemetry-proto, trace/v1/trace.proto) in its JSON form: ids are hex. */
interface Exported {
  resourceSpans: { resource: { attributes: Attributes }; scopeSpans: { spans: ExportedSpan[] }[] }[];
}
type ExportedSpan = Span & { kind: number; startTimeUnixNano: string; attributes: Attributes };

export type CollectedSpan = Span & {
  readonly service: string;
  readonly kind: (typeof KINDS)[number] | undefined;
  readonly startTimeUnixNano: bigint;
  readonly attributes: Readonly<Record<string, Value>>;
};

export type Collector = Awaited<ReturnType<typeof startCollector>>;

export async function startCollector() {
  const spans: CollectedSpan[] = [];
  const held: ServerResponse[] = [];
  let exports = 0;
  let behaviour: "answer" | "stall" | "refuse" = "answer";
  const answer = (response: ServerResponse) =>
    response.writeHead(200, { "content-type": "application/json" }).end("{}");
  const server = await serve(async (request, response) => {
    exports += 1;
    if (behaviour === "refuse" || `${request.method} ${request.url}` !== "POST /v1/traces")
      return response.writeHead(400).end();
    for (const { resource, scopeSpans } of ((await json(request)) as Exported).resourceSpans) {
      const service = String(plain(resource.attributes)["service.name"]);
      for (const span of scopeSpans.flatMap((scope) => scope.spans))
        spans.push({
          ...span,
          service,
          kind: KINDS[span.kind],
          startTimeUnixNano: BigInt(span.startTimeUnixNano),
          attributes: plain(span.attributes),
        });
    }
    return behaviour === "stall" ? held.push(response) : answer(response);
  });
  return {
    ...server,
    /** All that came in, answered or not. */
    spans: spans as readonly CollectedSpan[],
    exports: () => exports,
    /** How exports are answered from now on: at once, not before this changes, or with a refusal and none of them kept. */
    behave(how: typeof behaviour): void {
      behaviour = how;
      if (how !== "stall") held.splice(0).forEach(answer);
    },
  };
}

function plain(attributes: Attributes): Record<string, Value> {
  return Object.fromEntries(attributes.map(({ key, value }) => [key, Object.values(value)[0]]));
}
