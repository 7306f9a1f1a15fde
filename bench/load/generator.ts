/**
 * Sends requests over N connections and measures the answers.
 *
 * Why not autocannon: every booking needs a token of its own, and building a request per send costs autocannon 37 to
 * 49 µs of processor time per request (26 to 32 with one fixed request), this 13 to 15 (POST with 160-byte tokens,
 * 256 connections, a bare node:http server; Node 26). Client and cluster share two cores here, so what the client
 * uses is missing in what it measures.
 */
import { createHistogram } from "node:perf_hooks";
import { setTimeout as sleep } from "node:timers/promises";
import { Connection } from "./connection.ts";
import type { LoadPlan, LoadReport } from "./plan.ts";

const PROGRESS_MS = 1_000;
/** How long requests that were sent in time may take to be answered. */
const DRAIN_MAX_MS = 10_000;
/** Broken connections that are opened again; more than this is no measurement any more. */
const REOPENED_MAX = 1_000;

export async function generateLoad(
  plan: LoadPlan,
  progress: (seconds: number, answers: number) => void,
): Promise<LoadReport> {
  const { requests, connections, warmUpSeconds, seconds } = plan;
  const request = requestBuilder(plan);
  const total = seconds > 0 ? Number.POSITIVE_INFINITY : requests.tokens.length * requests.paths.length;
  const latencyMicroseconds = createHistogram();
  const counts = new Map<string, number>();
  let sent = 0;
  let answers = 0;
  let reopened = 0;
  let counting = false;
  let stopped = false;
  const count = (what: string) => counts.set(what, (counts.get(what) ?? 0) + 1);

  let open = 0;
  let ended: () => void = () => undefined;
  const allEnded = new Promise<void>((resolve) => (ended = resolve));
  const end = () => {
    open -= 1;
    if (open === 0) ended();
  };
  const lanes = Array.from({ length: connections }, () => {
    const lane = new Connection(plan.target, {
      next() {
        if (stopped || sent >= total) {
          end();
          return undefined;
        }
        sent += 1;
        return request(requests.first + sent - 1);
      },
      answered(status, problem, milliseconds) {
        if (!counting) return;
        answers += 1;
        count(problem === undefined ? String(status) : `${status} ${problem}`);
        latencyMicroseconds.record(Math.max(1, Math.round(milliseconds * 1000)));
      },
      lost(reason) {
        count(`lost: ${reason}`);
        reopened += 1;
        if (stopped || reopened > REOPENED_MAX) end();
        else lane.open().catch(() => undefined); // which reports itself as lost again
      },
    });
    return lane;
  });

  counting = warmUpSeconds === 0;
  const startedCounting = () => ({ at: performance.now(), processor: process.cpuUsage() });
  let start = startedCounting();
  const elapsed = () => (performance.now() - start.at) / 1000;
  open = connections;
  await Promise.all(lanes.map((lane) => lane.open()));
  if (warmUpSeconds > 0) await Promise.race([sleep(warmUpSeconds * 1000), allEnded]);
  counting = true;
  start = startedCounting();
  const reporting = setInterval(() => progress(elapsed(), answers), PROGRESS_MS);
  await (seconds > 0 ? Promise.race([sleep(seconds * 1000), allEnded]) : allEnded);
  counting = false;
  clearInterval(reporting);
  const counted = elapsed();
  const { user, system } = process.cpuUsage(start.processor);
  stopped = true;
  await Promise.race([allEnded, sleep(DRAIN_MAX_MS)]);
  for (const lane of lanes) lane.close();

  const percentile = (share: number) => latencyMicroseconds.percentile(share) / 1000;
  return {
    seconds: counted,
    answers,
    counts: Object.fromEntries([...counts].sort(([, a], [, b]) => b - a)),
    latencyMs: {
      p50: percentile(50),
      p99: percentile(99),
      p999: percentile(99.9),
      max: answers === 0 ? 0 : latencyMicroseconds.max / 1000,
    },
    sent,
    processorShare: (user + system) / 1e6 / counted,
  };
}

/** Request number n as it goes over the wire. */
function requestBuilder({ target, requests }: LoadPlan): (number: number) => string {
  const { method, paths, tokens, body } = requests;
  const tail =
    `host: ${target.host}:${target.port}\r\n` +
    (body === undefined
      ? "\r\n"
      : `content-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);
  const heads = paths.map((path) => `${method} ${path} HTTP/1.1\r\n`);
  const lines = tokens.map((token) => `authorization: Bearer ${token}\r\n`);
  const perPath = Math.max(1, lines.length);
  return (number) =>
    `${heads[Math.floor(number / perPath) % heads.length]}${lines[number % perPath] ?? ""}${tail}`;
}
