/**
 * Reads of an event out of the router's memory, as a share of what a bare `node:http` server does that answers the same
 * bytes. Both are measured in turns, each alone on one core, the load generator on the other.
 */
import { runLoad, startBareServer } from "../load/run.ts";
import type { LoadReport } from "../load/plan.ts";
import { atLeast, type Figure, median, type PartContext } from "../part.ts";
import { pin, processorSeconds } from "../processes.ts";
import { CONNECTIONS, otherAnswers } from "./rush.ts";

const ROUNDS = 5;
const WARM_UP_SECONDS = 0.5;
const SERVER_CORE = 0;
const LOAD_CORE = 1;
const TARGET = 0.7;
/** What Node adds to every answer by itself. */
const ADDED_BY_NODE = new Set(["date", "connection", "keep-alive"]);

/** With the server's processor time an answer. */
type Measured = LoadReport & { readonly microseconds: number };

export async function reads(context: PartContext): Promise<readonly Figure[]> {
  const { cluster, seconds, signal, progress } = context;
  const event = await cluster.createEvent({ totalTickets: 10_000 });
  const path = `/v1/events/${event.id}`;
  await cluster.readEvent(event.id);
  const example = await fetch(cluster.router.url + path);
  const headers = Object.fromEntries([...example.headers].filter(([name]) => !ADDED_BY_NODE.has(name)));
  if (headers["cache-status"] !== "onsale; hit; detail=memory")
    throw new Error(`the router did not answer out of its memory: ${headers["cache-status"]}`);

  await using bare = await startBareServer(
    { headers, body: await example.text() },
    { signal, core: SERVER_CORE },
  );
  using pinned = pin(cluster.router.pid, SERVER_CORE);
  const { hostname, port } = new URL(cluster.router.url);
  const { pid } = cluster.router;
  const servers = { router: { host: hostname, port: Number(port), pid }, bare };
  const measure = async (name: keyof typeof servers): Promise<Measured> => {
    const { host, port, pid } = servers[name];
    const before = processorSeconds(pid);
    const report = await runLoad(
      {
        target: { host, port },
        connections: CONNECTIONS,
        warmUpSeconds: WARM_UP_SECONDS,
        seconds: seconds / ROUNDS,
        requests: { method: "GET", paths: [path], first: 0 },
      },
      { signal, progress, label: `reads: ${name}`, core: LOAD_CORE },
    );
    return { ...report, microseconds: ((processorSeconds(pid) - before) / report.sent) * 1e6 };
  };

  for (const name of ["router", "bare"] as const) await measure(name); // warm-up
  const routers: Measured[] = [];
  const bares: Measured[] = [];
  for (let round = 0; round < ROUNDS; round += 1) {
    // First one, then the other, and the other way round: what drifts meanwhile favours nobody.
    if (round % 2 === 0) routers.push(await measure("router"));
    bares.push(await measure("bare"));
    if (round % 2 === 1) routers.push(await measure("router"));
  }

  const rate = (report: Measured) => (report.counts["200"] ?? 0) / report.seconds;
  const ratios = routers.map((report, round) => rate(report) / rate(bares[round] ?? report));
  const shares = routers.map(({ microseconds }, round) => (bares[round]?.microseconds ?? 0) / microseconds);
  const others = routers.map((report) => otherAnswers(report, "200")).filter((other) => other !== "none");
  const where = pinned.pinned ? "server and load on a core each" : "cores shared: no taskset here";
  return [
    {
      name: "share of a bare server",
      value: median(ratios),
      unit: "ratio",
      target: atLeast(TARGET, median(ratios), "ratio"),
      note: `median of ${ROUNDS}: ${ratios.map((ratio) => ratio.toFixed(2)).join(" ")}; ${where}`,
    },
    {
      name: "the same, by processor time",
      value: median(shares),
      unit: "ratio",
      target: atLeast(TARGET, median(shares), "ratio"),
      note: `what counts on a machine that others use: ${shares.map((share) => share.toFixed(2)).join(" ")}`,
    },
    {
      name: "router",
      value: median(routers.map(rate)),
      unit: "/s",
      note: `other answers: ${others.join(", ") || "none"}`,
    },
    { name: "bare node:http", value: median(bares.map(rate)), unit: "/s" },
    { name: "router p99", value: median(routers.map((report) => report.latencyMs.p99)), unit: "ms" },
  ];
}
