/** A rush over HTTP, with what it cost the cluster's processes: what the parts that load one router share. */
import type { BenchCluster } from "../bench-cluster.ts";
import type { LoadPlan, LoadReport } from "../load/plan.ts";
import { targetOf } from "../load/plans.ts";
import { runLoad } from "../load/run.ts";
import { atLeast, atMost, type Figure, type PartContext } from "../part.ts";
import { processorSeconds, processorSecondsOfTree } from "../processes.ts";

export const CONNECTIONS = 256;

export interface RushReport extends LoadReport {
  /** Processor time per request that was sent, in microseconds: steadier on a shared machine than any rate. */
  readonly microsecondsPerRequest: { router: number; nodes: number; postgres: number };
}

export type Rush = Pick<LoadPlan, "warmUpSeconds" | "seconds" | "requests" | "arrivals">;

/** Sends it to the first router, over 256 connections. `loadCore` keeps the load on that core, where the system can. */
export async function rush(
  { cluster, signal, progress }: Pick<PartContext, "cluster" | "signal" | "progress">,
  label: string,
  load: Rush & { loadCore?: number },
): Promise<RushReport> {
  const { loadCore, ...plan } = load;
  const before = processorTimes(cluster);
  const report = await runLoad(
    { target: targetOf(cluster.router.url), connections: CONNECTIONS, ...plan },
    { signal, progress, label, ...(loadCore === undefined ? {} : { core: loadCore }) },
  );
  const after = processorTimes(cluster);
  const perRequest = (role: keyof typeof before) => ((after[role] - before[role]) / report.sent) * 1e6;
  return {
    ...report,
    microsecondsPerRequest: {
      router: perRequest("router"),
      nodes: perRequest("nodes"),
      postgres: perRequest("postgres"),
    },
  };
}

/** The answers that were not `wanted`, most frequent first; "none" when there were none. */
export function otherAnswers(report: LoadReport, wanted: string): string {
  const others = Object.entries(report.counts).filter(([answer]) => answer !== wanted);
  return others.map(([answer, count]) => `${count} × ${answer}`).join(", ") || "none";
}

/** The rate of the wanted answers, their latencies, and the cost. */
export function figuresOf(
  report: RushReport,
  wanted: string,
  targets: { perSecond?: number; p99Ms?: number; p999Ms?: number },
): Figure[] {
  const perSecond = (report.counts[wanted] ?? 0) / report.seconds;
  return [
    {
      name: `answers ${wanted}`,
      value: perSecond,
      unit: "/s",
      ...(targets.perSecond !== undefined && { target: atLeast(targets.perSecond, perSecond, "/s") }),
      note: `other answers: ${otherAnswers(report, wanted)}`,
    },
    ...latencyFigures(report, targets),
    costFigure(report),
  ];
}

export function latencyFigures(
  { latencyMs: { p50, p99, p999 } }: LoadReport,
  targets: { p99Ms?: number; p999Ms?: number },
): Figure[] {
  return [
    { name: "p50", value: p50, unit: "ms" },
    {
      name: "p99",
      value: p99,
      unit: "ms",
      ...(targets.p99Ms !== undefined && { target: atMost(targets.p99Ms, p99, "ms") }),
    },
    {
      name: "p99.9",
      value: p999,
      unit: "ms",
      ...(targets.p999Ms !== undefined && { target: atMost(targets.p999Ms, p999, "ms") }),
    },
  ];
}

export function costFigure({ microsecondsPerRequest, processorShare }: RushReport): Figure {
  const { router, nodes, postgres } = microsecondsPerRequest;
  const cost = Object.entries({ router, nodes, PostgreSQL: postgres }).map(
    ([process, microseconds]) => `${process} ${Math.round(microseconds)}`,
  );
  return {
    name: "processor time a request",
    value: router + nodes + postgres,
    unit: "µs",
    note: `${cost.join(", ")}; load generator ${(processorShare * 100).toFixed(0)} % of a core`,
  };
}

/** Processor seconds so far. */
function processorTimes({ routers, shards }: BenchCluster): {
  router: number;
  nodes: number;
  postgres: number;
} {
  return {
    router: routers.reduce((sum, router) => sum + processorSeconds(router.pid), 0),
    nodes: shards.reduce((sum, shard) => sum + processorSeconds(shard.nodePid), 0),
    postgres: shards.reduce((sum, shard) => sum + processorSecondsOfTree(shard.postgresPid), 0),
  };
}
