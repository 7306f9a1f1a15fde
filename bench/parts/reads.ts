/**
 * Reads of an event out of the router's memory, beside a bare `node:http` server that answers the same bytes and beside
 * nginx with a micro-cache in front of the router. They are measured in turns, each alone on one core, the load generator
 * on the other.
 */
import { latencyPlot } from "../load/plots.ts";
import { findNginx, startMicroCache } from "../load/micro-cache.ts";
import type { LoadReport } from "../load/plan.ts";
import { readsOf, targetOf } from "../load/plans.ts";
import { runLoad, startBareServer } from "../load/run.ts";
import { atLeast, type Figure, median, type Outcome, type PartContext } from "../part.ts";
import { pin, processorSecondsOfTree } from "../processes.ts";
import { CONNECTIONS, otherAnswers } from "./rush.ts";

const ROUNDS = 5;
const WARM_UP_SECONDS = 0.5;
const SERVER_CORE = 0;
const LOAD_CORE = 1;
const TARGET = { bare: 0.85, nginx: 1 };
/** What Node adds to every answer by itself. */
const ADDED_BY_NODE = new Set(["date", "connection", "keep-alive"]);

/** With the server's processor time an answer. */
type Measured = LoadReport & { readonly microseconds: number };

export async function reads(context: PartContext): Promise<Outcome> {
  const { cluster, seconds, signal, progress } = context;
  const event = await cluster.createEvent({ totalTickets: 10_000 });
  const path = `/v1/events/${event.id}`;
  await cluster.readEvent(event.id);
  const example = await fetch(cluster.router.url + path);
  const headers = Object.fromEntries([...example.headers].filter(([name]) => !ADDED_BY_NODE.has(name)));
  if (headers["cache-status"] !== "onsale; hit; detail=memory")
    throw new Error(`the router did not answer out of its memory: ${headers["cache-status"]}`);

  await using stack = new AsyncDisposableStack();
  const options = { signal, core: SERVER_CORE };
  const bare = stack.use(await startBareServer({ headers, body: await example.text() }, options));
  const program = findNginx();
  const nginx = program && stack.use(await startMicroCache(program, [cluster.router.url], options));
  const router = { ...targetOf(cluster.router.url), pid: cluster.router.pid };
  const { pinned } = stack.use(pin(router.pid, SERVER_CORE));
  const servers = [
    { name: "router", ...router, reports: [] as Measured[] },
    { name: "bare node:http", ...bare, reports: [] as Measured[] },
    ...(nginx ? [{ name: "nginx micro-cache", ...nginx, reports: [] as Measured[] }] : []),
  ];
  const measure = async ({ name, host, port, pid }: (typeof servers)[number]): Promise<Measured> => {
    const before = processorSecondsOfTree(pid);
    const report = await runLoad(
      {
        target: { host, port },
        connections: CONNECTIONS,
        warmUpSeconds: WARM_UP_SECONDS,
        seconds: seconds / ROUNDS,
        requests: readsOf([event.id]),
      },
      { signal, progress, label: `reads: ${name}`, core: LOAD_CORE },
    );
    return { ...report, microseconds: ((processorSecondsOfTree(pid) - before) / report.sent) * 1e6 };
  };

  for (const server of servers) await measure(server); // warm-up
  for (let round = 0; round < ROUNDS; round += 1) {
    // Forwards and backwards in turns: what drifts meanwhile favours nobody.
    for (const server of round % 2 === 0 ? servers : servers.toReversed())
      server.reports.push(await measure(server));
  }

  const rate = (report: Measured) => (report.counts["200"] ?? 0) / report.seconds;
  const [own, ...others] = servers.map(({ name, reports }) => ({
    name,
    reports,
    perSecond: median(reports.map(rate)),
    microseconds: median(reports.map(({ microseconds }) => microseconds)),
  }));
  const wrong = servers.map(({ name, reports }) => [
    name,
    reports.map((report) => otherAnswers(report, "200")),
  ]);
  for (const [name, answers] of wrong) {
    if (String(answers).replaceAll("none", "").replaceAll(",", "") !== "")
      throw new Error(`${String(name)} gave other answers than 200: ${String(answers)}`);
  }
  const where = pinned ? "server and load on a core each" : "cores shared: no taskset here";
  const comparedWith = ({ name, reports }: NonNullable<typeof own>, target: number): Figure[] => {
    const rates = reports.map((report, round) => rate(own?.reports[round] ?? report) / rate(report));
    const costs = reports.map(
      ({ microseconds }, round) => microseconds / (own?.reports[round]?.microseconds ?? Number.NaN),
    );
    const each = (values: readonly number[]) => values.map((value) => value.toFixed(2)).join(" ");
    return [
      {
        name: `router as a share of ${name}`,
        value: median(rates),
        unit: "ratio",
        target: atLeast(target, median(rates), "ratio"),
        note: `rounds ${each(rates)}; ${where}`,
      },
      {
        name: `router as a share of ${name}, by processor time`,
        value: median(costs),
        unit: "ratio",
        target: atLeast(target, median(costs), "ratio"),
        note: `what counts on a machine that others use: ${each(costs)}`,
      },
    ];
  };
  return {
    figures: [
      ...others.flatMap((other) =>
        comparedWith(other, other.name.startsWith("nginx") ? TARGET.nginx : TARGET.bare),
      ),
      ...[own, ...others].flatMap((server): Figure[] =>
        server === undefined
          ? []
          : [
              {
                name: server.name,
                value: server.perSecond,
                unit: "/s",
                note: `${server.microseconds.toFixed(1)} µs of processor time an answer`,
              },
            ],
      ),
    ],
    plots: [
      latencyPlot(
        "Latency of reads",
        servers.map(({ name, reports }) => ({ name, report: reports.at(-1) as Measured })),
      ),
    ],
    ...(nginx === undefined && {
      notes: ["nginx was left out: it is not installed (Debian: apt-get install nginx-light)."],
    }),
  };
}
