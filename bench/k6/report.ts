/** What k6 has measured, as figures with their targets. Nothing here is asked for before the audit was clean. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { type Figure, type Unit, written } from "../figures.ts";
import type { Outcome } from "../part.ts";
import type { Results } from "../report/results.ts";
import { counterOf, OUTCOMES } from "./lib/outcomes.ts";

const RESULTS = join(import.meta.dirname, "..", "results");
const LATENCY = /^http_req_duration\{name:(\w+)(?:,status:(\d+))?\}$/;
const SIGNS: Readonly<Record<string, string>> = { "<=": "≤", ">=": "≥", "==": "=" };
const PERCENTILES = { p50: "med", p99: "p(99)", "p99.9": "p(99.9)" } as const;

const metric = z.object({
  /** Latencies are in milliseconds. */
  values: z.record(z.string(), z.number()),
  /** By expression, such as "p(99)<=500". */
  thresholds: z.record(z.string(), z.object({ ok: z.boolean() })).default({}),
});
/** The file that lib/summary.ts describes. */
const runFile = z.object({
  scenario: z.string(),
  settings: z.looseObject({ vusMax: z.number() }),
  arrivals: z.number(),
  seconds: z.number(),
  metrics: z.record(z.string(), metric),
  broken: z.array(z.object({ name: z.string(), fails: z.number() })),
});
export type Run = z.infer<typeof runFile>;

/** What a run has left; undefined when it has left nothing, because it never came to its load. */
export function readRun(file: string): Run | undefined {
  return existsSync(file) ? runFile.parse(JSON.parse(readFileSync(file, "utf8"))) : undefined;
}

export function outcomeOf(run: Run): Outcome {
  return {
    figures: [...answersOf(run), ...shortfallsOf(run), ...latenciesOf(run)],
    problems: [
      ...Object.entries(run.metrics).flatMap(([name, { thresholds }]) =>
        Object.entries(thresholds)
          .filter(([, { ok }]) => !ok)
          .map(([expression]) => `the threshold ${name} ${expression} was crossed`),
      ),
      ...run.broken.map(({ name, fails }) => `${fails} times it was not so that ${name}`),
    ],
  };
}

/** Keeps figures, settings and k6's own metrics, and returns the file. */
export function keepRun(results: Results, k6: Run): string {
  mkdirSync(RESULTS, { recursive: true });
  const file = join(RESULTS, `k6-${k6.scenario}-${results.date.replaceAll(":", "-")}.json`);
  writeFileSync(file, `${JSON.stringify({ ...results, k6 }, null, 2)}\n`);
  return file;
}

/** How often each answer came, by the second. */
function answersOf({ metrics, seconds }: Run): Figure[] {
  return OUTCOMES.flatMap((outcome): Figure[] => {
    const count = metrics[counterOf(outcome)]?.values["count"];
    if (count === undefined) return [];
    return [
      { name: outcome, value: count / seconds, unit: "/s", note: `${written(count, "count")} answers` },
    ];
  });
}

/** What was not sent, not answered, or not answered as the contract says. */
function shortfallsOf({ metrics, settings, arrivals }: Run): Figure[] {
  const { iterations, dropped_iterations: dropped, http_req_failed: failed, checks } = metrics;
  const [wanted, busy] = [`of ${written(arrivals, "count")}`, `found all ${settings.vusMax} VUs busy`];
  return [
    figureOf(iterations, "count", { name: "arrivals sent", unit: "count", note: wanted }),
    figureOf(dropped, "count", { name: "arrivals dropped", unit: "count", note: busy }),
    figureOf(failed, "rate", { name: "requests failed", unit: "%", factor: 100 }),
    figureOf(checks, "rate", { name: "checks passed", unit: "%", factor: 100 }),
  ];
}

function latenciesOf({ metrics }: Run): Figure[] {
  const byName = Object.entries(metrics).toSorted(([a], [b]) => (a < b ? -1 : 1));
  return byName.flatMap(([name, latency]) => {
    const [, request, status] = LATENCY.exec(name) ?? [];
    if (request === undefined) return [];
    const answers = [request, ...(status === undefined ? [] : [status])].join(" ");
    return Object.entries(PERCENTILES).map(([percentile, value]) =>
      figureOf(latency, value, { name: `${answers}, ${percentile}`, unit: "ms" }),
    );
  });
}

/** One value of a metric, with the threshold on it as its target. `factor` brings it to the unit. */
function figureOf(
  found: z.infer<typeof metric> | undefined,
  value: string,
  { name, unit, note, factor = 1 }: { name: string; unit: Unit; note?: string; factor?: number },
): Figure {
  const threshold = Object.entries(found?.thresholds ?? {}).find(([expression]) =>
    expression.startsWith(value),
  );
  const [, sign = "", bound = ""] = /([<>=]=)([\d.e-]+)$/.exec(threshold?.[0] ?? "") ?? [];
  const wanted = `${SIGNS[sign] ?? sign} ${written(Number(bound) * factor, unit)}`;
  return {
    name,
    value: (found?.values[value] ?? 0) * factor,
    unit,
    ...(threshold && { target: { wanted, met: threshold[1].ok } }),
    ...(note !== undefined && { note }),
  };
}
