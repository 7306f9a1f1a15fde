/** How far the read side is behind its shards while they sell: bookings of one hot event come at a fixed rate. */
import { setTimeout as sleep } from "node:timers/promises";
import { readClusterFile } from "../cluster-file.ts";
import { below, type ClusterPart, type Figure, type Outcome, type PartContext } from "../part.ts";
import { processorSeconds } from "../processes.ts";
import { bookingsOfOneEvent } from "./hot-event.ts";
import { otherAnswers, rush } from "./rush.ts";

const WARM_UP_SECONDS = 2;
const TARGET_MS = 1_000;
const LOOK_EVERY_MS = 50;
/** Until its tables are filled. */
const READY_MAX_MS = 60_000;

export const readSide: ClusterPart<"rate"> = {
  name: "read-side",
  title: "how far the read side is behind while its shards sell",
  seconds: 10,
  estimate: (seconds) => 20 + seconds,
  options: {
    rate: { means: "bookings a second", default: 5_000, min: 1, max: 100_000, whole: true },
  },
  cluster: { shards: 1, env: { READ_SIDE: "on" } },
  run,
};

async function run(
  context: PartContext & { readonly options: Readonly<Record<"rate", number>> },
): Promise<Outcome> {
  const { cluster, seconds, options, signal } = context;
  const { readSide: side } = readClusterFile(cluster.dataDir);
  if (side === null) throw new Error("the cluster has no read side");
  await filled(side.adminUrl, signal);

  const requests = await bookingsOfOneEvent(cluster, WARM_UP_SECONDS + seconds);
  const usedBefore = processorSeconds(side.pid);
  const looking = new AbortController();
  const looks = lagsOf(side.adminUrl, looking.signal);
  const report = await rush(context, "read-side", {
    warmUpSeconds: WARM_UP_SECONDS,
    seconds,
    arrivals: { perSecond: options.rate },
    requests,
  });
  looking.abort();
  const lags = (await looks).toSorted((a, b) => a - b);
  const used = processorSeconds(side.pid) - usedBefore;

  const at = (share: number): number => lags[Math.min(lags.length - 1, Math.floor(share * lags.length))] ?? 0;
  const figures: Figure[] = [
    {
      name: "confirmed meanwhile",
      value: report.classes.confirmed / report.seconds,
      unit: "/s",
      note: `${options.rate.toLocaleString("en")} a second arrived, ${report.dropped} found no place; other answers: ${otherAnswers(report, "201")}`,
    },
    { name: "behind, p50", value: at(0.5), unit: "ms" },
    {
      name: "behind, p99",
      value: at(0.99),
      unit: "ms",
      target: below(TARGET_MS, at(0.99), "ms"),
      note: `of ${lags.length} looks`,
    },
    {
      name: "read side, processor time a booking",
      value: (used / report.allClasses.confirmed) * 1e6,
      unit: "µs",
    },
  ];
  return { figures };
}

/** The lags, in milliseconds, that the read side shows until `signal`. */
async function lagsOf(adminUrl: string, signal: AbortSignal): Promise<number[]> {
  const lags: number[] = [];
  while (!signal.aborted) {
    const lag = await lagMs(adminUrl);
    if (lag !== undefined) lags.push(lag);
    await sleep(LOOK_EVERY_MS, undefined, { signal }).catch(() => undefined);
  }
  return lags;
}

async function filled(adminUrl: string, signal: AbortSignal): Promise<void> {
  const began = performance.now();
  while ((await lagMs(adminUrl)) === undefined) {
    if (performance.now() - began > READY_MAX_MS)
      throw new Error(`the read side is not ready after ${READY_MAX_MS} ms`);
    await sleep(LOOK_EVERY_MS, undefined, { signal });
  }
}

/** How far it is behind the shard that it is behind most; undefined while its tables are not filled. */
async function lagMs(adminUrl: string): Promise<number | undefined> {
  const text = await (await fetch(`${adminUrl}/metrics`)).text();
  const lags = [...text.matchAll(/^onsale_read_side_lag_seconds\{.*\} (\S+)$/gm)];
  return lags.length === 0 ? undefined : Math.max(...lags.map(([, lag]) => Number(lag) * 1000));
}
