/** One turn of one contender: all workloads one after the other, then the audit. */
import type { Contender } from "../baselines/contender.ts";
import type { LoadReport } from "../load/plan.ts";
import { targetOf } from "../load/plans.ts";
import type { Generator } from "../load/run.ts";
import { CONNECTIONS } from "../parts/rush.ts";
import { processorSecondsOfTree } from "../processes.ts";
import { sampleLockWait } from "./lock-wait.ts";
import { newEventsFor, requestsFor, type Workload } from "./workloads.ts";

export interface Measurement {
  readonly contender: string;
  readonly workload: Workload["name"];
  readonly report: LoadReport;
  /** Processor seconds by process, for each 1,000 of the answers that the workload is about. */
  readonly processorPerThousand: Readonly<Record<string, number>>;
  readonly retries: number;
  /** Of PostgreSQL's connections, for each 1,000. */
  readonly lockWaitPerThousand: number;
  /** What the contender itself saw of it, for each 1,000; undefined where it cannot know. */
  readonly ownLockWaitPerThousand: number | undefined;
  /** What was confirmed and not yet in PostgreSQL when the load had ended needed so long to get there. */
  readonly settleSeconds: number;
}

export interface Turn {
  readonly measurements: readonly Measurement[];
  readonly auditedBookings: number;
  readonly violations: readonly string[];
}

export interface TurnOptions {
  readonly workloads: readonly Workload[];
  readonly generator: Generator;
  readonly seconds: number;
  readonly secret: string;
  readonly postgres: { readonly serverUrl: string; readonly pid: number };
  readonly signal: AbortSignal;
}

/** The first one is longer: nothing of the contender is compiled or cached yet. */
const WARM_UP_SECONDS = { first: 2, further: 1 };
/** On the same scale as the other processes of the tables. */
export const LOAD_GENERATOR = "load generator";
export const POSTGRES = "PostgreSQL";

/** Throws when the contender cannot be asked at all; what it does wrong is in the violations. */
export async function takeTurn(contender: Contender, options: TurnOptions): Promise<Turn> {
  const measurements: Measurement[] = [];
  let confirmed = 0;
  for (const [index, workload] of options.workloads.entries()) {
    options.signal.throwIfAborted();
    const warmUpSeconds = index === 0 ? WARM_UP_SECONDS.first : WARM_UP_SECONDS.further;
    const measured = await measure(contender, workload, warmUpSeconds, options);
    confirmed += measured.report.allClasses.confirmed;
    measurements.push(measured);
  }
  const { bookings, violations } = await contender.audit();
  const vanished =
    bookings < confirmed ? [`${confirmed} bookings were confirmed, but only ${bookings} exist`] : [];
  return { measurements, auditedBookings: bookings, violations: [...violations, ...vanished] };
}

async function measure(
  contender: Contender,
  workload: Workload,
  warmUpSeconds: number,
  { generator, seconds, secret, postgres }: TurnOptions,
): Promise<Measurement> {
  const events = newEventsFor(workload);
  await contender.createEvents(events);
  const processes = [...contender.processes, { name: POSTGRES, pid: postgres.pid }];
  const before = { processor: timesOf(processes), stats: await contender.stats() };
  await using locks = sampleLockWait(postgres.serverUrl);
  const report = await generator.run(
    {
      target: targetOf(contender.url),
      connections: CONNECTIONS,
      warmUpSeconds,
      seconds,
      requests: requestsFor(workload, events, secret),
    },
    `compare: ${contender.name}, ${workload.title}`,
  );
  const ended = performance.now();
  await contender.settle();
  const settleSeconds = (performance.now() - ended) / 1000;
  const after = { processor: timesOf(processes), stats: await contender.stats() };

  const thousands = report.allClasses[workload.counted] / 1000;
  const used = processes.map(
    ({ name }) => [name, ((after.processor[name] ?? 0) - (before.processor[name] ?? 0)) / thousands] as const,
  );
  const ofGenerator = (report.processorShare * report.seconds) / (report.classes[workload.counted] / 1000);
  const [waited, waitedBefore] = [after.stats.lockWaitSeconds, before.stats.lockWaitSeconds];
  return {
    contender: contender.name,
    workload: workload.name,
    report,
    processorPerThousand: { ...Object.fromEntries(used), [LOAD_GENERATOR]: ofGenerator },
    retries: after.stats.retries - before.stats.retries,
    lockWaitPerThousand: locks.seconds / thousands,
    ownLockWaitPerThousand:
      waited === undefined || waitedBefore === undefined ? undefined : (waited - waitedBefore) / thousands,
    settleSeconds,
  };
}

function timesOf(processes: readonly { name: string; pid: number }[]): Record<string, number> {
  return Object.fromEntries(processes.map(({ name, pid }) => [name, processorSecondsOfTree(pid)]));
}
