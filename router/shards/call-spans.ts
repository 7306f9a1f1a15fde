/** The spans of calls to nodes (OpenTelemetry semantic conventions, HTTP client spans). Most calls have none. */
import type { Command } from "../../shared/domain/commands.ts";
import type { ShardId } from "../../shared/domain/ids.ts";
import { type Span, spanForMany } from "../../shared/watch/tracing.ts";
import type { CommandsRequest } from "../../shared/wire/rpc.ts";
import type { Outgoing } from "./coalescer.ts";
import { CallError } from "../../shared/wire/node-client.ts";

type SpanOfCall = Parameters<Span["child"]>;

/** Runs a call and ends its span, if it has one: it has when a request that the call serves is sampled. */
export async function inSpan<Answer>(
  span: Span | undefined,
  call: (span: Span | undefined) => Promise<Answer>,
): Promise<Answer> {
  try {
    return await call(span);
  } catch (error) {
    span?.failed(error instanceof CallError ? error.kind : "internal");
    throw error;
  } finally {
    span?.end();
  }
}

/** The span of a call for a whole batch: a child of the first sampled request, with links to all of them. */
export function spanOfBatch(
  batch: readonly Outgoing<unknown>[],
  described: () => SpanOfCall,
): Span | undefined {
  const spans = batch.flatMap(({ span }) => span ?? []);
  const [first] = spans;
  return first && spanForMany(first, spans, described());
}

/** What the span of a call says. */
export function describeCall(shard: ShardId, nodeUrl: string, path: string, batchSize: number): SpanOfCall {
  const { hostname, port, protocol } = new URL(nodeUrl);
  return [
    `POST ${path}`,
    "client",
    {
      "http.request.method": "POST",
      "url.full": nodeUrl + path,
      "server.address": hostname,
      "server.port": Number(port || (protocol === "https:" ? 443 : 80)),
      "onsale.shard.id": shard,
      "onsale.batch.size": batchSize,
    },
  ];
}

/** How a call says which of its commands are sampled. */
export function tracesOf(batch: readonly Outgoing<Command>[]): CommandsRequest["traces"] {
  if (batch.every(({ span }) => span === undefined)) return undefined;
  return batch.flatMap(({ span }, command) => (span === undefined ? [] : { command, ...span.headers() }));
}
