/** What the rounds of one contender at one workload come to. */
import { median } from "../figures.ts";
import type { AnswerClass, LoadReport } from "../load/plan.ts";
import { LOAD_GENERATOR, type Measurement, POSTGRES, type Turn } from "./measure.ts";
import type { Workload } from "./workloads.ts";

export interface Summary {
  readonly contender: string;
  readonly workload: Workload["name"];
  readonly perSecond: Readonly<Record<AnswerClass, number>>;
  /** Rate of the answers that the workload is about, as a multiple of the first contender's; median of the rounds. */
  readonly timesFirst: number;
  readonly timesFirstByRound: readonly number[];
  /** Medians of the rounds. */
  readonly latencyMs: Pick<LoadReport["latencyMs"], "p50" | "p99" | "p999">;
  readonly latencyCurve: LoadReport["latencyCurve"];
  readonly series: LoadReport["series"];
  /** How often each error came. */
  readonly errors: Readonly<Record<string, number>>;
  readonly retries: number;
  readonly lockWaitPerThousand: number;
  readonly ownLockWaitPerThousand: number | undefined;
  readonly processorPerThousand: Readonly<Record<string, number>>;
  readonly settleSeconds: number;
}

/** One for each contender and workload, the contenders in the order of `turns`; the first is what others are compared with. */
export function summariesOf(
  workloads: readonly Workload[],
  turns: ReadonlyMap<string, readonly Turn[]>,
): Summary[] {
  const [first] = turns.keys();
  const measurementsOf = (contender: string, workload: Workload) =>
    (turns.get(contender) ?? []).flatMap(({ measurements }) =>
      measurements.filter((measurement) => measurement.workload === workload.name),
    );
  return workloads.flatMap((workload) => {
    const reference = measurementsOf(first ?? "", workload);
    return [...turns.keys()].map((contender) =>
      summaryOf(workload, contender, measurementsOf(contender, workload), reference),
    );
  });
}

function summaryOf(
  workload: Workload,
  contender: string,
  rounds: readonly Measurement[],
  reference: readonly Measurement[],
): Summary {
  const middle = (pick: (measurement: Measurement) => number) => median(rounds.map(pick));
  const rate = (answerClass: AnswerClass) => middle(({ report }) => perSecond(report, answerClass));
  const timesFirstByRound = rounds.map(({ report }, round) => {
    const other = reference[round]?.report;
    return other === undefined
      ? Number.NaN
      : perSecond(report, workload.counted) / perSecond(other, workload.counted);
  });
  const processes = Object.keys(rounds[0]?.processorPerThousand ?? {});
  const ownLockWaits = rounds.flatMap(({ ownLockWaitPerThousand: own }) => (own === undefined ? [] : [own]));
  return {
    contender,
    workload: workload.name,
    perSecond: {
      confirmed: rate("confirmed"),
      accepted: rate("accepted"),
      refused: rate("refused"),
      read: rate("read"),
      error: rate("error"),
    },
    timesFirst: median(timesFirstByRound),
    timesFirstByRound,
    latencyMs: {
      p50: middle(({ report }) => report.latencyMs.p50),
      p99: middle(({ report }) => report.latencyMs.p99),
      p999: middle(({ report }) => report.latencyMs.p999),
    },
    latencyCurve: middleCurve(rounds),
    series: rounds.at(-1)?.report.series ?? { sliceSeconds: 1, slices: [] },
    errors: errorsOf(rounds),
    retries: rounds.reduce((sum, { retries }) => sum + retries, 0),
    lockWaitPerThousand: middle(({ lockWaitPerThousand }) => lockWaitPerThousand),
    ownLockWaitPerThousand: ownLockWaits.length === 0 ? undefined : median(ownLockWaits),
    processorPerThousand: Object.fromEntries(
      processes.map((name) => [
        name,
        middle(({ processorPerThousand }) => processorPerThousand[name] ?? Number.NaN),
      ]),
    ),
    settleSeconds: middle(({ settleSeconds }) => settleSeconds),
  };
}

const perSecond = (report: LoadReport, answerClass: AnswerClass) =>
  report.classes[answerClass] / report.seconds;

/** All curves have the same percentiles, as far as each goes. */
function middleCurve(rounds: readonly Measurement[]): LoadReport["latencyCurve"] {
  const curves = rounds.map(({ report }) => report.latencyCurve);
  const length = Math.min(...curves.map((curve) => curve.length));
  return (curves[0] ?? []).slice(0, length).map(({ percentile }, index) => ({
    percentile,
    ms: median(curves.map((curve) => curve[index]?.ms ?? Number.NaN)),
  }));
}

function errorsOf(rounds: readonly Measurement[]): Record<string, number> {
  const errors: Record<string, number> = {};
  for (const { report } of rounds) {
    for (const [answer, count] of Object.entries(report.counts)) {
      if (!/^(201|409|200|304)\b/.test(answer)) errors[answer] = (errors[answer] ?? 0) + count;
    }
  }
  return errors;
}

/** Those of the contenders first, then what all of them have. */
export function processesIn(summaries: readonly Summary[]): string[] {
  const all = new Set(summaries.flatMap(({ processorPerThousand }) => Object.keys(processorPerThousand)));
  const common = [POSTGRES, LOAD_GENERATOR];
  return [...[...all].filter((name) => !common.includes(name)), ...common];
}
