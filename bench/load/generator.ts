/**
 * Sends requests over N connections and measures the answers.
 *
 * Every booking needs a token of its own, and client and cluster share two cores: what the client uses, the cluster lacks. So
 * this generator is built to be cheap (`npm run bench -- generator`). k6 runs the scenarios (bench/k6).
 */
import { setTimeout as sleep } from "node:timers/promises";
import { Connections } from "./connections.ts";
import { closedModel, openModel } from "./models.ts";
import type { LoadPlan, LoadReport } from "./plan.ts";
import { requestsOf } from "./requests.ts";
import { Tally } from "./tally.ts";

const PROGRESS_MS = 1_000;

/** Runs the plan to its end. Throws when the target takes no connections, and RangeError for a plan without requests. */
export async function generateLoad(
  plan: LoadPlan,
  progress: (seconds: number, answers: number) => void,
): Promise<LoadReport> {
  const { arrivals, warmUpSeconds, seconds } = plan;
  if (arrivals !== undefined && !(seconds > 0 && arrivals.perSecond > 0))
    throw new RangeError("the open model needs a rate and a time");
  const requests = requestsOf(plan.requests, plan.target);
  const connections = await Connections.open(plan.target, plan.connections);

  const start = performance.now();
  const from = start + warmUpSeconds * 1000;
  const until = seconds > 0 ? from + seconds * 1000 : Number.POSITIVE_INFINITY;
  const tally = new Tally({ from, until }, arrivals === undefined ? "answered" : "since");
  const total = seconds > 0 ? Number.POSITIVE_INFINITY : requests.total;
  const model =
    arrivals === undefined ? closedModel(requests, total) : openModel(requests, arrivals, start, tally);
  const finished = connections.run(model, tally);
  await Promise.race([sleep(Math.max(0, from - performance.now())), finished]);
  const processor = process.cpuUsage();
  const reporting = setInterval(
    () => progress((performance.now() - from) / 1000, tally.answers),
    PROGRESS_MS,
  );
  // A timer may fire a millisecond early, and the last arrival would be missing.
  const rest = Math.ceil(until - performance.now()) + 1;
  await (seconds > 0 ? Promise.race([sleep(rest), finished]) : finished);
  clearInterval(reporting);
  const counted = (Math.min(performance.now(), until) - from) / 1000;
  const { user, system } = process.cpuUsage(processor);
  await connections.drain();
  return {
    ...tally.report(),
    seconds: counted,
    sent: model.sent,
    dropped: model.dropped,
    processorShare: (user + system) / 1e6 / counted,
  };
}
