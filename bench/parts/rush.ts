/** A rush over HTTP, with what it cost the cluster's processes: the part that hot-event, sold-out and memory share. */
import type { LoadReport, RequestPlan } from "../load/plan.ts";
import { runLoad } from "../load/run.ts";
import type { BenchCluster } from "../cluster.ts";
import { atLeast, below, type Figure, type PartContext } from "../part.ts";
import { processorSeconds, processorSecondsOfTree } from "../processes.ts";

export const CONNECTIONS = 256;

export interface RushReport extends LoadReport {
  /** Processor time per request that was sent, in microseconds: steadier on a shared machine than any rate. */
  readonly microsecondsPerRequest: { router: number; nodes: number; postgres: number };
}

export async function rush(
  { cluster, signal, progress }: PartContext,
  label: string,
  load: { warmUpSeconds: number; seconds: number; requests: RequestPlan },
): Promise<RushReport> {
  const { hostname, port } = new URL(cluster.router.url);
  const target = { host: hostname, port: Number(port) };
  const before = processorTimes(cluster);
  const report = await runLoad({ target, connections: CONNECTIONS, ...load }, { signal, progress, label });
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
  targets: { perSecond: number; p99Ms?: number },
): Figure[] {
  const { router, nodes, postgres } = report.microsecondsPerRequest;
  const cost = [
    `router ${Math.round(router)}`,
    `nodes ${Math.round(nodes)}`,
    `PostgreSQL ${Math.round(postgres)}`,
  ];
  const { p50, p99, p999 } = report.latencyMs;
  const perSecond = (report.counts[wanted] ?? 0) / report.seconds;
  return [
    {
      name: `answers ${wanted}`,
      value: perSecond,
      unit: "/s",
      target: atLeast(targets.perSecond, perSecond, "/s"),
      note: `other answers: ${otherAnswers(report, wanted)}`,
    },
    { name: "p50", value: p50, unit: "ms" },
    {
      name: "p99",
      value: p99,
      unit: "ms",
      ...(targets.p99Ms === undefined ? {} : { target: below(targets.p99Ms, p99, "ms") }),
    },
    { name: "p99.9", value: p999, unit: "ms" },
    {
      name: "processor time a request",
      value: router + nodes + postgres,
      unit: "µs",
      note: `${cost.join(", ")}; load generator ${(report.processorShare * 100).toFixed(0)} % of a core`,
    },
  ];
}

/** Processor seconds so far. */
function processorTimes({ router, shards }: BenchCluster): {
  router: number;
  nodes: number;
  postgres: number;
} {
  return {
    router: processorSeconds(router.pid),
    nodes: shards.reduce((sum, shard) => sum + processorSeconds(shard.nodePid), 0),
    postgres: shards.reduce((sum, shard) => sum + processorSecondsOfTree(shard.postgresPid), 0),
  };
}
