/**
 * Runs one part: boots what it needs, and audits what it did. Figures that were reached by breaking an invariant leave
 * this file only as an error (M1).
 */
import { auditedBookings } from "./audited.ts";
import type { BenchCluster, ClusterOptions } from "./bench-cluster.ts";
import type { BareContext, Part } from "./part.ts";
import type { PartResult } from "./report/results.ts";

export type StartCluster = (
  options: Pick<BareContext, "signal" | "progress"> & ClusterOptions,
) => Promise<BenchCluster>;

/** Throws, with the broken rows, when the audit is not clean, and with whatever the part throws. */
export async function runPart(
  part: Part,
  context: BareContext,
  startCluster: StartCluster,
): Promise<PartResult> {
  const started = performance.now();
  const finish = (outcome: Awaited<ReturnType<Part["run"]>>, audit?: { bookings: number }): PartResult => ({
    part: part.name,
    title: part.title,
    secondsAMeasurement: context.seconds,
    tookSeconds: Math.round((performance.now() - started) / 1000),
    ...("figures" in outcome ? outcome : { figures: outcome }),
    ...(audit && { auditedBookings: audit.bookings }),
  });
  if (part.cluster === undefined) return finish(await part.run(context));

  await using cluster = await startCluster({ ...context, ...part.cluster });
  const outcome = await part.run({ ...context, cluster }).catch((error: unknown) => {
    throw context.signal.aborted ? error : (endedIn(cluster, error) ?? error);
  });
  const ended = endedIn(cluster);
  if (ended !== undefined) throw ended;
  context.progress.show(`${part.name}: auditing`);
  return finish(outcome, { bookings: auditedBookings(await cluster.audit()) });
}

/** Why there are no figures when a process of the cluster has ended in the middle; undefined when none has. */
function endedIn(cluster: BenchCluster, cause?: unknown): Error | undefined {
  const ended = cluster.ended();
  return ended.length === 0
    ? undefined
    : new Error(`${ended.join(", ")} ended in the middle, so no figures`, { cause });
}
