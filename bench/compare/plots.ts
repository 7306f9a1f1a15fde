/** The comparison as drawings. */
import { latencyPlot, type NamedReport, throughputPlot } from "../load/plots.ts";
import type { BarPlot, Plot } from "../plots.ts";
import { processesIn, type Summary } from "./summary.ts";
import { type Workload, WORKLOADS } from "./workloads.ts";

/** One of each kind for each workload; the same kind side by side. */
export function workloadPlots(summaries: readonly Summary[]): Plot[] {
  const of = (workload: Workload) => summaries.filter((summary) => summary.workload === workload.name);
  return [
    ...WORKLOADS.map((workload) => latencyPlot(`Latency: ${workload.title}`, namedReports(of(workload)))),
    ...WORKLOADS.map((workload) =>
      throughputPlot(`Throughput: ${workload.title}`, namedReports(of(workload)), [workload.counted], {
        scale: "log",
        note: "the last round",
      }),
    ),
    ...WORKLOADS.map((workload) => processorPlot(workload, of(workload))),
  ];
}

export function ratioPlot(
  contenders: readonly { readonly name: string }[],
  summaries: readonly Summary[],
  reference: string,
): BarPlot {
  return {
    kind: "bars",
    title: `How many times as fast as ${reference}`,
    axis: { title: `times ${reference}`, scale: "log" },
    categories: contenders.map(({ name }) => name),
    stacked: false,
    bars: WORKLOADS.map((workload) => ({
      name: workload.title,
      values: contenders.map(
        ({ name }) =>
          summaries.find((summary) => summary.contender === name && summary.workload === workload.name)
            ?.timesFirst ?? null,
      ),
    })),
  };
}

function namedReports(summaries: readonly Summary[]): NamedReport[] {
  return summaries.map(({ contender, latencyCurve, series }) => ({
    name: contender,
    emphasised: contender === "onsale",
    report: { latencyCurve, series },
  }));
}

function processorPlot({ title, counted }: Workload, summaries: readonly Summary[]): BarPlot {
  return {
    kind: "bars",
    title: `Processor time by process: ${title}`,
    axis: { title: `seconds for each 1,000 ${counted}` },
    categories: summaries.map(({ contender }) => contender),
    stacked: true,
    bars: processesIn(summaries).map((name) => ({
      name,
      values: summaries.map(({ processorPerThousand }) => processorPerThousand[name] ?? null),
    })),
  };
}
