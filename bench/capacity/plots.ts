/** The plots of the capacity part. */
import type { Plot } from "../plots.ts";
import type { Findings } from "./findings.ts";
import { busiestOf } from "./model.ts";
import type { ClusterRun } from "./simulation/cluster.ts";

const SHARDS_SHOWN = 24;

export function plotsOf({ plan, lost }: Findings, run: ClusterRun): Plot[] {
  const order = busiestOf(plan).slice(0, SHARDS_SHOWN);
  const seconds = (of: (moment: ClusterRun["moments"][number]) => number | undefined) =>
    run.moments.flatMap((moment) => {
      const value = of(moment);
      return value === undefined ? [] : [[moment.second, value] as const];
    });
  return [
    {
      kind: "bars",
      title: "Simulated cluster: how busy its shards are",
      axis: { title: "% of a core" },
      categories: order.map((shard) => `shard ${shard}`),
      stacked: false,
      bars: [
        { name: "node", values: order.map((shard) => (run.shards[shard]?.node ?? 0) * 100) },
        {
          name: "busier lane",
          values: order.map(
            (shard) =>
              Math.max(...(run.shards[shard]?.lanes.map(({ utilisation }) => utilisation) ?? [0])) * 100,
          ),
        },
      ],
    },
    {
      kind: "lines",
      title: `Simulated cluster: p99 of bookings, shard ${lost} lost for a while`,
      x: { title: "seconds" },
      y: { title: "ms" },
      lines: [
        { name: `shard ${lost}`, points: seconds(({ lostP99 }) => lostP99) },
        { name: "all others", points: seconds(({ othersP99 }) => othersP99) },
      ],
    },
    {
      kind: "lines",
      title: "Simulated cluster: bookings answered 503 at once",
      x: { title: "seconds" },
      y: { title: "a second" },
      lines: [{ name: `shard ${lost}`, points: seconds(({ unavailable }) => unavailable) }],
    },
  ];
}
