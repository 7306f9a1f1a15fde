/**
 * Three times what the cluster can book, for a minute: what is booked, how fast the rest is refused, and when it is over. The
 * bottleneck is a slow disk: so routers have processor time left, as they do in a cluster of the right size, and the load
 * generator does not take away what it measures. A few buyers of another event of that shard come beside it.
 */
import { Connection } from "../../shared/database/connection.ts";
import { latencyPlot, throughputPlot } from "../load/plots.ts";
import type { LoadReport } from "../load/plan.ts";
import { bookingsOf, targetOf } from "../load/plans.ts";
import { type Generator, startGenerator } from "../load/run.ts";
import { atLeast, atMost, type ClusterPart, type Figure, type Outcome, type PartContext } from "../part.ts";
import { residentMegabytes } from "../processes.ts";
import { CONNECTIONS, otherAnswers } from "./rush.ts";

/** Each flush of the log takes so long, and a batch has so few commands: about four hundred bookings a second of one event. */
const FLUSH_MS = 20;
const BATCH_MAX = 10;

const WARM_UP_SECONDS = 3;
const PEAK_SECONDS = 10;
const CALM_SECONDS = 10;
const CALM_SHARE = 0.5;
const OVERLOAD = 3;
/** Open: who is admitted waits for about a second (SHARD_WAIT_MAX_MS, LANE_WAIT_MAX_MS). */
const OPEN_CONNECTIONS = 4_000;
const QUIET_PER_SECOND = 20;
const USERS = 400_000;
const QUIET_USERS = 2_000;
const TICKETS = 10_000_000;

const TARGET = { goodput: 0.9, refusedP99Ms: 20, backSeconds: 5, quietP99: 3, memoryMegabytes: 400 };
/** Latency is back when its p99 is at most so many times what it was before. */
const BACK = 2;

export const overload: ClusterPart = {
  name: "overload",
  title: "three times the peak, and after it",
  seconds: 60,
  estimate: (seconds) => 50 + PEAK_SECONDS + 2 * CALM_SECONDS + seconds,
  onlyNamed: true,
  cluster: { shards: 1, env: { LANE_BATCH_MAX: String(BATCH_MAX) } },
  run,
};

type Load = Pick<LoadReport, "seconds"> & { warmUpSeconds: number; perSecond?: number };

async function run(context: PartContext): Promise<Outcome> {
  const { cluster, signal, progress } = context;
  const [shard] = cluster.shards;
  if (shard === undefined) throw new Error("the cluster has no shard");
  await slowDown(shard.databaseUrl);
  const [hot = "", quiet = ""] = await cluster.createEvents(2, { totalTickets: TICKETS, maxPerUser: 2 });
  await using crowd = startGenerator({ signal, progress });
  await using few = startGenerator({ signal, progress });
  const first = { [hot]: 0, [quiet]: 0 };
  const send = async (generator: Generator, event: string, label: string, load: Load) => {
    const { perSecond, ...times } = load;
    const report = await generator.run(
      {
        target: targetOf(cluster.router.url),
        connections: perSecond === undefined ? CONNECTIONS : event === hot ? OPEN_CONNECTIONS : CONNECTIONS,
        ...times,
        ...(perSecond !== undefined && { arrivals: { perSecond } }),
        requests: bookingsOf([event], {
          secret: cluster.secret,
          users: event === hot ? USERS : QUIET_USERS,
          first: first[event] ?? 0,
        }),
      },
      `overload: ${label}`,
    );
    first[event] = (first[event] ?? 0) + report.sent;
    return report;
  };
  /** Both events side by side. */
  const both = async (label: string, load: Load) => {
    const [hotReport, quietReport] = await Promise.all([
      send(crowd, hot, label, load),
      send(few, quiet, label, { ...load, perSecond: QUIET_PER_SECOND }),
    ]);
    return { hot: hotReport, quiet: quietReport };
  };

  const peak = await send(crowd, hot, "the peak", { warmUpSeconds: WARM_UP_SECONDS, seconds: PEAK_SECONDS });
  const peakPerSecond = peak.classes.confirmed / peak.seconds;
  const calmPerSecond = Math.round(peakPerSecond * CALM_SHARE);
  const alone = await send(few, quiet, "the quiet event alone", {
    warmUpSeconds: WARM_UP_SECONDS,
    seconds: CALM_SECONDS,
    perSecond: QUIET_PER_SECOND,
  });
  const before = await both("half of the peak", {
    warmUpSeconds: WARM_UP_SECONDS,
    seconds: CALM_SECONDS,
    perSecond: calmPerSecond,
  });
  const during = await both(`${OVERLOAD} times the peak`, {
    warmUpSeconds: 0,
    seconds: context.seconds,
    perSecond: Math.round(peakPerSecond * OVERLOAD),
  });
  const after = await send(crowd, hot, "half of the peak again", {
    warmUpSeconds: 0,
    seconds: CALM_SECONDS,
    perSecond: calmPerSecond,
  });

  const goodput = during.hot.classes.confirmed / during.hot.seconds;
  const refusedP99 = during.hot.classP99Ms.error;
  const quietTimes = during.quiet.latencyMs.p99 / alone.latencyMs.p99;
  const back = secondsUntilBack(after, BACK * before.hot.latencyMs.p99);
  const named = [
    { name: "half of the peak", report: before.hot },
    { name: `${OVERLOAD} times the peak`, report: during.hot, emphasised: true },
    { name: "half of it again", report: after },
  ];
  return {
    figures: [
      { name: "the peak", value: peakPerSecond, unit: "/s", note: otherThan201(peak) },
      {
        name: `booked at ${OVERLOAD} times the peak`,
        value: goodput / peakPerSecond,
        unit: "ratio",
        target: atLeast(TARGET.goodput, goodput / peakPerSecond, "ratio"),
        note: `${Math.round(goodput)}/s of ${Math.round(peakPerSecond * OVERLOAD)}/s; ${otherThan201(during.hot)}; dropped by the generator: ${during.hot.dropped}`,
      },
      {
        name: "refusals, p99",
        value: refusedP99,
        unit: "ms",
        target: atMost(TARGET.refusedP99Ms, refusedP99, "ms"),
      },
      { name: "bookings, p99", value: during.hot.classP99Ms.confirmed, unit: "ms" },
      {
        name: "latency is back after",
        value: back,
        unit: "s",
        target: atMost(TARGET.backSeconds, back, "s"),
        note: `p99 at most ${BACK} times the ${before.hot.latencyMs.p99.toFixed(0)} ms before`,
      },
      {
        name: "a quiet event of that shard, p99 beside alone",
        value: quietTimes,
        unit: "×",
        target: atMost(TARGET.quietP99, quietTimes, "×"),
        note: `${alone.latencyMs.p99.toFixed(0)} ms alone, ${during.quiet.latencyMs.p99.toFixed(0)} ms beside; ${otherThan201(during.quiet)}`,
      },
      ...memoryFigures(context),
    ],
    plots: [
      latencyPlot("Latency, refusals included", named),
      throughputPlot("Bookings over time", named, ["confirmed"]),
    ],
  };
}

/** Every flush takes `FLUSH_MS`, whoever else commits (PostgreSQL manual, commit_delay). */
async function slowDown(databaseUrl: string): Promise<void> {
  using connection = new Connection({
    url: databaseUrl,
    session: { application_name: "onsale-bench" },
    statementMs: 10_000,
  });
  await connection.script(`alter system set commit_delay = ${FLUSH_MS * 1000}`);
  await connection.script("alter system set commit_siblings = 0");
  await connection.script("select pg_reload_conf()");
}

/** Seconds from the start of a load until its p99 stays at or below the bound; its whole length when it never does. */
function secondsUntilBack({ series: { slices, sliceSeconds } }: LoadReport, boundMs: number): number {
  return (slices.findLastIndex(({ p99Ms }) => p99Ms > boundMs) + 1) * sliceSeconds;
}

function memoryFigures({ cluster }: PartContext): Figure[] {
  const processes = [
    { name: "router", pid: cluster.router.pid },
    ...cluster.shards.map(({ nodePid }) => ({ name: "node", pid: nodePid })),
  ];
  return processes.map(({ name, pid }) => {
    const peak = residentMegabytes(pid)?.peak ?? Number.NaN;
    return {
      name: `${name}, most memory`,
      value: peak,
      unit: "MB",
      target: atMost(TARGET.memoryMegabytes, peak, "MB"),
    };
  });
}

const otherThan201 = (report: LoadReport) => `other answers: ${otherAnswers(report, "201")}`;
