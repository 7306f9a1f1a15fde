/** Switches tracing on where a collector is configured. */
import { z } from "zod";
import { urlOf } from "../process/config.ts";
import type { Log } from "../process/log.ts";
import type { Registry } from "./metrics.ts";
import type { TracedService, Tracing } from "./tracing.ts";

/** The settings of a role that switch tracing on; their names are OpenTelemetry's. */
export const tracingSettings = {
  /** The collector; `/v1/traces` is added. */
  OTEL_EXPORTER_OTLP_ENDPOINT: urlOf("http", "https").optional(),
  /** The same for traces alone, taken as it is. */
  OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: urlOf("http", "https").optional(),
  OTEL_EXPORTER_OTLP_PROTOCOL: z.literal("http/json", { error: "must be http/json" }).optional(),
  OTEL_TRACES_SAMPLER: z
    .literal("parentbased_traceidratio", { error: "must be parentbased_traceidratio" })
    .optional(),
  /** The fraction of requests without a trace of their own that are sampled. */
  OTEL_TRACES_SAMPLER_ARG: z
    .string()
    .regex(/^(0|1|0?\.\d+|1\.0+)$/, "must be a number from 0 to 1")
    .transform(Number)
    .default(0.01),
};
export type TracingSettings = z.infer<z.ZodObject<typeof tracingSettings>>;

/** Tracing, or undefined when no collector is configured: then the libraries are not even loaded (some 30 MB). */
export async function startTracing(
  settings: TracingSettings,
  service: TracedService,
  log: Log,
  registry: Registry,
): Promise<Tracing | undefined> {
  const base = settings.OTEL_EXPORTER_OTLP_ENDPOINT?.replace(/\/+$/, "");
  const url = settings.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT ?? (base && `${base}/v1/traces`);
  if (url === undefined) return undefined;
  const { startOpenTelemetry } = await import("./opentelemetry.ts");
  return startOpenTelemetry({ url, ratio: settings.OTEL_TRACES_SAMPLER_ARG, service, log, registry });
}
