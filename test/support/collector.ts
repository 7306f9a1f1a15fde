/** A collector of traces: takes OTLP over HTTP (JSON) and keeps the spans as tests look at them. */
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { json } from "node:stream/consumers";
import { z } from "zod";

/** OTLP 1.x, ExportTraceServiceRequest (opentelemetry-proto, trace/v1/trace.proto) in its JSON form: ids are hex. */
const value = z.union([
  z.strictObject({ stringValue: z.string() }).transform((one) => one.stringValue),
  z.strictObject({ boolValue: z.boolean() }).transform((one) => one.boolValue),
  z.strictObject({ intValue: z.union([z.int(), z.string()]) }).transform((one) => Number(one.intValue)),
  z.strictObject({ doubleValue: z.number() }).transform((one) => one.doubleValue),
]);
const attributes = z
  .array(z.strictObject({ key: z.string(), value }))
  .transform((all) => Object.fromEntries(all.map((one) => [one.key, one.value])));
const traceId = z.string().regex(/^[0-9a-f]{32}$/);
const spanId = z.string().regex(/^[0-9a-f]{16}$/);
const KINDS = ["unspecified", "internal", "server", "client"] as const;
const nanoseconds = z.union([z.string(), z.number()]).transform(BigInt);

const exported = z.object({
  resourceSpans: z.array(
    z.object({
      resource: z.object({ attributes }),
      scopeSpans: z.array(
        z.object({
          spans: z.array(
            z.object({
              traceId,
              spanId,
              parentSpanId: spanId.optional(),
              traceState: z.string().optional(),
              name: z.string(),
              kind: z.int().transform((kind) => KINDS[kind]),
              startTimeUnixNano: nanoseconds,
              endTimeUnixNano: nanoseconds,
              attributes,
              links: z.array(z.object({ traceId, spanId })).default([]),
              status: z.object({ code: z.int().default(0) }).default({ code: 0 }),
            }),
          ),
        }),
      ),
    }),
  ),
});
type Exported = z.infer<typeof exported>["resourceSpans"][number];
export type CollectedSpan = Exported["scopeSpans"][number]["spans"][number] & {
  readonly service: string;
};

export interface Collector extends AsyncDisposable {
  readonly url: string;
  readonly spans: readonly CollectedSpan[];
  /** Exports that came in, answered or not. */
  readonly exports: number;
  /** What is wrong with what came in. */
  readonly faults: readonly string[];
  /** How exports are answered from now on: at once, not before this changes, or with a refusal and none of them kept. */
  behave(how: "answer" | "stall" | "refuse"): void;
}

export async function startCollector(): Promise<Collector> {
  const spans: CollectedSpan[] = [];
  const faults: string[] = [];
  const held: ServerResponse[] = [];
  let exports = 0;
  let behaviour: Parameters<Collector["behave"]>[0] = "answer";
  const answer = (response: ServerResponse) =>
    response.writeHead(200, { "content-type": "application/json" }).end("{}");
  const server = createServer((request, response) => {
    exports += 1;
    if (behaviour === "refuse") {
      response.writeHead(400).end();
      return;
    }
    void json(request)
      .then((body) => {
        if (`${request.method} ${request.url}` !== "POST /v1/traces") faults.push(`${request.url}`);
        for (const { resource, scopeSpans } of exported.parse(body).resourceSpans) {
          const service = String(resource.attributes["service.name"]);
          spans.push(...scopeSpans.flatMap((scope) => scope.spans.map((span) => ({ ...span, service }))));
        }
      })
      .catch((error: unknown) => faults.push(String(error)))
      .then(() => (behaviour === "stall" ? held.push(response) : answer(response)));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    spans,
    faults,
    get exports() {
      return exports;
    },
    behave(how) {
      behaviour = how;
      if (how !== "stall") held.splice(0).forEach(answer);
    },
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
