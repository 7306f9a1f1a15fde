/** The comparison as tables: one for each workload, and what every process used. */
import type { Cell, Column, Table } from "../tables.ts";
import { LOAD_GENERATOR } from "./measure.ts";
import { processesIn, type Summary } from "./summary.ts";
import type { Workload } from "./workloads.ts";

/** What all tables have in common. */
export const LEGEND =
  "in the tables, latencies and rates are medians of the rounds; lock wait (of PostgreSQL's connections, sampled), own lock wait (as the contender sees it) and processor time (of all processes but the load generator) are for each 1,000 answers that the workload is about; written behind is the time until all that was confirmed was in PostgreSQL";

/** `reference`: whom the others are compared with, unless they cannot be. */
export function tableOf(
  workload: Workload,
  summaries: readonly Summary[],
  reference: string | undefined,
): Table {
  const columns: (Column & { readonly cell: (summary: Summary) => Cell })[] = [
    { name: "contender", cell: ({ contender }) => contender },
    { name: "confirmed/s", cell: ({ perSecond }) => perSecond.confirmed },
    { name: "refused/s", cell: ({ perSecond }) => perSecond.refused },
    ...(reference === undefined
      ? []
      : [{ name: `times ${reference}`, unit: "×" as const, cell: ({ timesFirst }: Summary) => timesFirst }]),
    { name: "p50", unit: "ms", cell: ({ latencyMs }) => latencyMs.p50 },
    { name: "p99", unit: "ms", cell: ({ latencyMs }) => latencyMs.p99 },
    { name: "p99.9", unit: "ms", cell: ({ latencyMs }) => latencyMs.p999 },
    { name: "errors", cell: ({ errors }) => errorsIn(errors) },
    { name: "retries", cell: ({ retries }) => retries },
    { name: "lock wait", unit: "s", cell: ({ lockWaitPerThousand }) => lockWaitPerThousand },
    {
      name: "own lock wait",
      unit: "s",
      cell: ({ ownLockWaitPerThousand }) => ownLockWaitPerThousand ?? null,
    },
    { name: "processor", unit: "s", cell: ({ processorPerThousand }) => serversIn(processorPerThousand) },
    { name: "written behind", unit: "s", cell: ({ settleSeconds }) => settleSeconds },
  ];
  return {
    title: `${workload.title[0]?.toUpperCase()}${workload.title.slice(1)}`,
    columns: columns.map(({ name, unit }) => ({ name, ...(unit && { unit }) })),
    rows: summaries.map((summary) => columns.map(({ cell }) => cell(summary))),
  };
}

export function processorTable(summaries: readonly Summary[]): Table {
  const processes = processesIn(summaries);
  return {
    title: "Processor seconds for each 1,000 answers that the workload is about, by process",
    columns: [
      { name: "workload" },
      { name: "contender" },
      ...processes.map((name) => ({ name, unit: "s" as const })),
    ],
    rows: summaries.map(({ workload, contender, processorPerThousand }) => [
      workload,
      contender,
      ...processes.map((name) => processorPerThousand[name] ?? null),
    ]),
  };
}

function serversIn(processorPerThousand: Readonly<Record<string, number>>): number {
  return Object.entries(processorPerThousand).reduce(
    (sum, [name, seconds]) => sum + (name === LOAD_GENERATOR ? 0 : seconds),
    0,
  );
}

function errorsIn(errors: Readonly<Record<string, number>>): string {
  const kinds = Object.entries(errors).map(([answer, count]) => `${count.toLocaleString("en")} × ${answer}`);
  return kinds.join(", ") || "none";
}
