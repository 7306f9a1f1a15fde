/**
 * What tracing costs a router. Two that differ in nothing else are asked the same in turns: one has tracing off, the other
 * samples one request in a hundred and sends its spans to a collector that takes everything. A machine that others use hides
 * a few percent; so what tracing adds to a request is also timed in a loop of its own, and compared with the whole request.
 */
import { IncomingMessage, ServerResponse } from "node:http";
import { Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { namedSpan, traced, traceOf } from "../../router/http/request-trace.ts";
import { createLog } from "../../shared/process/log.ts";
import { createRegistry } from "../../shared/watch/metrics.ts";
import { startOpenTelemetry } from "../../shared/watch/opentelemetry.ts";
import type { Tracing } from "../../shared/watch/tracing.ts";
import type { RequestPlan } from "../load/plan.ts";
import { bookingsOf, readsOf, targetOf } from "../load/plans.ts";
import { type Generator, startCannedServer, startGenerator } from "../load/run.ts";
import { atMost, type ClusterPart, type Figure, median, type PartContext } from "../part.ts";
import { processorSeconds } from "../processes.ts";
import { CONNECTIONS, otherAnswers } from "./rush.ts";

const ROUNDS = 15;
/** Long, for the one request in a hundred: its code has to be compiled too. */
const WARM_UP_ROUNDS = 4;
const WARM_UP_SECONDS = 3;
const USERS = 100_000;
const RATIO = 0.01;
const TARGET_PERCENT = { off: 1, on: 3 };
const TAKEN = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";

interface Router {
  readonly url: string;
  readonly pid: number;
}

export const tracing: ClusterPart = {
  name: "tracing",
  title: "what a router pays for tracing one request in a hundred",
  seconds: 1,
  estimate: (seconds) => 95 + 2 * 2 * ROUNDS * (seconds + 0.3),
  onlyNamed: true,
  cluster: { shards: 1 },
  run,
};

async function run(context: PartContext): Promise<readonly Figure[]> {
  const { cluster, signal, progress } = context;
  await using collector = await startCannedServer(TAKEN, { signal });
  await using off = await cluster.addRouter({});
  await using on = await cluster.addRouter({
    OTEL_EXPORTER_OTLP_ENDPOINT: `http://${collector.host}:${collector.port}`,
    OTEL_TRACES_SAMPLER_ARG: String(RATIO),
  });
  await using generator = startGenerator({ signal, progress });
  const event = await cluster.createEvent({ totalTickets: 10_000_000, maxPerUser: 100 });
  const read = readsOf([event.id]);
  const booking = bookingsOf([event.id], { secret: cluster.secret, users: USERS });
  const url = `http://${collector.host}:${collector.port}/v1/traces`;
  const nanoseconds = {
    off: await addedBy(undefined, MANY),
    notSampled: await addedBy(tracingAt(0, url), MANY),
    sampled: await addedBy(tracingAt(1, url), FEW),
  };
  return [
    ...(await inTurns("a read from memory", read, "200", { generator, off, on, context, nanoseconds })),
    ...(await inTurns("a booking", booking, "201", { generator, off, on, context, nanoseconds })),
  ];
}

interface Setting {
  readonly generator: Generator;
  readonly off: Router;
  readonly on: Router;
  readonly context: PartContext;
  /** What is added to a request. */
  readonly nanoseconds: { readonly off: number; readonly notSampled: number; readonly sampled: number };
}

async function inTurns(
  what: string,
  requests: RequestPlan,
  wanted: string,
  { generator, off, on, context, nanoseconds }: Setting,
): Promise<Figure[]> {
  let first = 0;
  /** Microseconds of the router's processor time an answer. */
  const costOn = async ({ url, pid }: Router, seconds: number): Promise<number> => {
    const before = processorSeconds(pid);
    const plan = {
      target: targetOf(url),
      connections: CONNECTIONS,
      warmUpSeconds: 0,
      seconds,
      requests: { ...requests, first },
    };
    const report = await generator.run(plan, `tracing: ${what}`);
    first += report.sent;
    const others = otherAnswers(report, wanted);
    if (others !== "none") throw new Error(`other answers than ${wanted}: ${others}`);
    return ((processorSeconds(pid) - before) / report.sent) * 1e6;
  };
  const rounds: { off: number; on: number }[] = [];
  for (let round = -WARM_UP_ROUNDS; round < ROUNDS; round += 1) {
    const seconds = round < 0 ? WARM_UP_SECONDS : context.seconds;
    // One, the other, the other, the one: what drifts meanwhile favours nobody.
    const costs =
      round % 2 === 0
        ? { off: await costOn(off, seconds), on: await costOn(on, seconds) }
        : { on: await costOn(on, seconds), off: await costOn(off, seconds) };
    if (round >= 0) rounds.push(costs);
  }
  const percents = rounds.map((round) => (round.on / round.off - 1) * 100).toSorted((a, b) => a - b);
  const [lower, upper] = [
    percents[Math.floor(ROUNDS / 4)] ?? NaN,
    percents[Math.floor((3 * ROUNDS) / 4)] ?? NaN,
  ];
  const cost = (which: "off" | "on") => median(rounds.map((round) => round[which]));
  const share = (added: number) => (added / (cost("off") * 1000)) * 100;
  const addedOn = nanoseconds.notSampled + RATIO * nanoseconds.sampled;
  const written = (added: number) => `${Math.round(added)} ns of ${cost("off").toFixed(1)} µs`;
  return [
    {
      name: `${what}, off: share of what is added`,
      value: share(nanoseconds.off),
      unit: "%",
      target: atMost(TARGET_PERCENT.off, share(nanoseconds.off), "%"),
      note: `${written(nanoseconds.off)}, timed in a loop`,
    },
    {
      name: `${what}, 1 % sampled: share of what is added`,
      value: share(addedOn),
      unit: "%",
      target: atMost(TARGET_PERCENT.on, share(addedOn), "%"),
      note: `${written(addedOn)}, timed in a loop; ${(nanoseconds.sampled / 1000).toFixed(1)} µs for one that is sampled, sent included`,
    },
    {
      name: `${what}, 1 % sampled: measured beside off`,
      value: median(percents),
      unit: "%",
      target: atMost(TARGET_PERCENT.on, median(percents), "%"),
      note: `half of ${ROUNDS} rounds from ${lower.toFixed(1)} to ${upper.toFixed(1)} %; ${cost("on").toFixed(1)} µs, by the router's processor time`,
    },
  ];
}

/** Requests of the loops; those that are sampled fit into the queue of spans. */
const MANY = 500_000;
/** The spans that ended are on their way a second later (shared/watch/opentelemetry.ts). */
const SENT_WITHIN_MS = 1_500;
const FEW = 1_000;
const TIMES = 7;

const tracingAt = (ratio: number, url: string) =>
  startOpenTelemetry({
    url,
    ratio,
    service: { name: "onsale-router" },
    log: createLog("bench", "silent"),
    registry: createRegistry(),
  });

/** Nanoseconds of processor time that tracing adds to a request of the router, with the span of a call when it is sampled. */
async function addedBy(tracing: Tracing | undefined, count: number): Promise<number> {
  const handle = traced(tracing, (request) => {
    const parent = namedSpan(request, "/v1/events/{id}/bookings", "a-request");
    if (parent === undefined || traceOf(request) === undefined) return;
    const call = parent.child("POST /rpc/commands", "client", { "http.request.method": "POST" });
    call.link(parent);
    parent.link(call);
    call.headers();
    call.end();
  });
  const times: number[] = [];
  for (let time = 0; time < TIMES; time += 1) {
    const exchanges = Array.from({ length: FEW }, () => {
      const request = new IncomingMessage(new Socket());
      Object.assign(request, {
        method: "POST",
        url: "/v1/events/01a21480-d70b-7342-87e6-adb7129af3c3/bookings",
      });
      return { request, response: new ServerResponse(request) };
    });
    const before = process.cpuUsage();
    for (let done = 0; done < count; done += FEW) {
      for (const { request, response } of exchanges) handle(request, response);
    }
    for (const { response } of exchanges) response.emit("close");
    // What was sampled is sent before the next time: with the queue full, dropping spans would be measured.
    if (tracing !== undefined) await sleep(SENT_WITHIN_MS);
    const { user, system } = process.cpuUsage(before);
    times.push(((user + system) / count) * 1000);
  }
  await tracing?.close();
  return median(times);
}
