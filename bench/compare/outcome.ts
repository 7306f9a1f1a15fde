/** What the comparison comes to. A contender whose audit is not clean has none of them (M1). */
import { atLeast, below, type Figure } from "../figures.ts";
import type { Outcome } from "../part.ts";
import type { Turn } from "./measure.ts";
import { ratioPlot, workloadPlots } from "./plots.ts";
import { type Summary, summariesOf } from "./summary.ts";
import { LEGEND, processorTable, tableOf } from "./tables.ts";
import { type Workload, WORKLOADS } from "./workloads.ts";

/** What onsale has to reach, as a multiple or a share of what most teams write. */
const TARGET = { hot: 25, evenly: 9, hotP99: 1 / 5 };
const VIOLATIONS_SHOWN = 5;

interface Named {
  readonly name: string;
  readonly title: string;
}

/** `turns` by name, none of who failed; whoever is first among `entrants` is what the others are compared with. */
export function outcomeOf(entrants: readonly Named[], turns: ReadonlyMap<string, readonly Turn[]>): Outcome {
  const problems = entrants.flatMap(({ name }) => problemsOf(name, turns.get(name) ?? []));
  const clean = entrants.filter(
    ({ name }) => turns.get(name)?.every(({ violations }) => violations.length === 0) ?? false,
  );
  const reference = entrants[0]?.name ?? "";
  const isReferenceClean = clean[0]?.name === reference;
  const summaries = summariesOf(WORKLOADS, new Map(clean.map(({ name }) => [name, turns.get(name) ?? []])));
  const of = (workload: Workload) => summaries.filter((summary) => summary.workload === workload.name);
  const audited = clean.map(({ name }) => {
    const bookings = (turns.get(name) ?? []).reduce((sum, turn) => sum + turn.auditedBookings, 0);
    return `${name} ${bookings.toLocaleString("en")}`;
  });
  return {
    figures: isReferenceClean ? figuresOf(summaries, reference) : [],
    tables: [
      ...WORKLOADS.map((workload) =>
        tableOf(workload, of(workload), isReferenceClean ? reference : undefined),
      ),
      processorTable(summaries),
    ],
    plots: [
      ...(isReferenceClean ? [ratioPlot(clean, summaries, reference)] : []),
      ...workloadPlots(summaries),
    ],
    notes: [
      `contenders: ${clean.map(({ name, title }) => `${name} (${title})`).join(", ")}`,
      `bookings that the audits found clean: ${audited.join(", ")}`,
      LEGEND,
    ],
    problems,
  };
}

function problemsOf(name: string, turns: readonly Turn[]): string[] {
  const violations = turns.flatMap((turn) => turn.violations);
  if (violations.length === 0) return [];
  const shown = violations.slice(0, VIOLATIONS_SHOWN).map((violation) => `\n  ${violation}`);
  return [
    `the audit of ${name} found ${violations.length} broken rows, so no figures of it${shown.join("")}`,
  ];
}

function figuresOf(summaries: readonly Summary[], reference: string): Figure[] {
  const find = (contender: string, workload: Workload["name"]) =>
    summaries.find((summary) => summary.contender === contender && summary.workload === workload);
  const times = (workload: Workload, bound?: number): Figure[] => {
    const own = find("onsale", workload.name);
    if (own === undefined) return [];
    const { timesFirst: value, timesFirstByRound } = own;
    return [
      {
        name: `${workload.title}, times ${reference}`,
        value,
        unit: "×",
        ...(bound !== undefined && { target: atLeast(bound, value, "×") }),
        note: `rounds ${timesFirstByRound.map((each) => each.toFixed(1)).join(" ")}; ${Math.round(own.perSecond[workload.counted]).toLocaleString("en")}/s beside ${Math.round(find(reference, workload.name)?.perSecond[workload.counted] ?? 0).toLocaleString("en")}/s`,
      },
    ];
  };
  const [own, other] = [find("onsale", "hot"), find(reference, "hot")];
  const share = (own?.latencyMs.p99 ?? Number.NaN) / (other?.latencyMs.p99 ?? Number.NaN);
  return WORKLOADS.flatMap((workload) => {
    if (workload.name === "evenly") return times(workload, TARGET.evenly);
    if (workload.name !== "hot" || own === undefined) return times(workload);
    return [
      ...times(workload, TARGET.hot),
      {
        name: `${workload.title}, p99 as a share of that of ${reference}`,
        value: share,
        unit: "ratio",
        target: below(TARGET.hotP99, share, "ratio"),
        note: `${own.latencyMs.p99.toFixed(0)} ms beside ${other?.latencyMs.p99.toFixed(0)} ms, both as fast as they can`,
      },
    ];
  });
}
