/** The two plots of every load: the distribution of its latency, and its answers over time. */
import type { LinePlot } from "../plots.ts";
import type { AnswerClass, LoadReport } from "./plan.ts";

export interface NamedReport {
  readonly name: string;
  readonly emphasised?: boolean;
  readonly report: Pick<LoadReport, "latencyCurve" | "series">;
}

/** One curve for each load. Both axes are stretched at the slow end. */
export function latencyPlot(title: string, reports: readonly NamedReport[], note?: string): LinePlot {
  return {
    kind: "lines",
    title,
    x: { title: "share of the answers that were at least as fast", scale: "percentile" },
    y: { title: "milliseconds", scale: "log" },
    lines: reports.map(({ name, emphasised = false, report }) => ({
      name,
      emphasised,
      points: report.latencyCurve.map(({ percentile, ms }) => [percentile, ms] as const),
    })),
    ...(note === undefined ? {} : { note }),
  };
}

/** Answers of these classes a second, over the counted time. */
export function throughputPlot(
  title: string,
  reports: readonly NamedReport[],
  classes: readonly AnswerClass[],
  options: { scale?: "linear" | "log"; note?: string } = {},
): LinePlot {
  return {
    kind: "lines",
    title,
    x: { title: "seconds" },
    y: { title: `${classes.join(" and ")} a second`, scale: options.scale ?? "linear" },
    lines: reports.map(({ name, emphasised = false, report: { series } }) => ({
      name,
      emphasised,
      points: series.slices.map((slice, index) => {
        const answers = classes.reduce((sum, answerClass) => sum + slice[answerClass], 0);
        return [(index + 1) * series.sliceSeconds, answers / series.sliceSeconds] as const;
      }),
    })),
    ...(options.note === undefined ? {} : { note: options.note }),
  };
}
