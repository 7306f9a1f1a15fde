/** Starts tracing when a collector is configured. */
import { z } from "zod";
import { urlOf } from "../process/config.ts";
import type { Log } from "../process/log.ts";
import type { Registry } from "./metrics.ts";
import type { TracedService, Tracing } from "./tracing.ts";

/** The settings of tracing, with OpenTelemetry's names. */
export const tracingSettings = {
  /** The collector; `/v1/traces` is added. */
  OTEL_EXPORTER_OTLP_ENDPOINT: urlOf("http", "https").optional(),
  /** A collector of traces only; nothing is added. */
  OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: urlOf("http", "https").optional(),
  OTEL_EXPORTER_OTLP_PROTOCOL: z.literal("http/json", { error: "must be http/json" }).optional(),
  OTEL_TRACES_SAMPLER: z
    .literal("parentbased_traceidratio", { error: "must be parentbased_traceidratio" })
    .optional(),
  /** The sampled fraction of the requests that come without a trace. */
  OTEL_TRACES_SAMPLER_ARG: z
    .string()
    .regex(/^(0|1|0?\.\d+|1\.0+)$/, "must be a number from 0 to 1")
    .transform(Number)
    .default(0.01),
};
export type TracingSettings = z.infer<z.ZodObject<typeof tracingSettings>>;

/** Returns undefined when no collector is configured, and then does not load the libraries (some 30 MB). */
export async function startTracing(
  settings: TracingSettings,
  service: TracedService,
  log: Log,
  registry: Registry,
): Promise<Tracing | undefined> {
  const base = settings.OTEL_EXPORTER_OTLP_ENDPOINT?.replace(/(?<!\/)\/+$/, "");
  const url = settings.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT ?? (base && `${base}/v1/traces`);
  if (url === undefined) return undefined;
  const { startOpenTelemetry } = await import("./opentelemetry.ts");
  return startOpenTelemetry({ url, ratio: settings.OTEL_TRACES_SAMPLER_ARG, service, log, registry });
}
