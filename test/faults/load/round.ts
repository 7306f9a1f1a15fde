/** One round: load, a fault in the middle of it, and the verdict. */
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { audit } from "../../../audit/audit.ts";
import { SECRET } from "../../support/secrets.ts";
import { check } from "../witness/check.ts";
import { Client, now } from "../witness/client.ts";
import { factsFromDatabases } from "../witness/facts.ts";
import { failuresOf, type Outcome, outcomesIn, quantile } from "../witness/figures.ts";
import { Load } from "../witness/load.ts";
import { readLog, WitnessLog } from "../witness/log.ts";
import { type LoadedCluster, shardOf, SHARDS } from "./cluster.ts";
import type { Fault } from "./faults.ts";

export interface Round {
  readonly faults: readonly Fault[];
  readonly requests: number;
  /** Of what the faults touch. */
  readonly failures: Readonly<Record<string, number>>;
  /** From the end of the faults to the last request that was sent and failed. */
  readonly recoveredMs: number;
  /** Of what the faults do not touch, before and during them; undefined when they touch everything. */
  readonly othersP99: readonly [before: number, during: number] | undefined;
  readonly bookings: number;
  readonly problems: readonly string[];
}

const CALM_MS = 5_000;
/** So that there is load after each recovery. */
const AFTER_MS = 3_000;
const SETTLE_MAX_MS = 30_000;
const ENTRIES_MAX = 200_000;
const REQUESTS_PER_SECOND = 160;
/** Two cores run it all: others' p99 may be four times as long as before, or half a second. */
const OTHERS_P99_FACTOR = 4;
const OTHERS_P99_MS = 500;

export async function runRound(
  cluster: LoadedCluster,
  faults: readonly Fault[],
  { seed, directory, number }: { seed: number; directory: string; number: number },
): Promise<Round> {
  const log = new WitnessLog(join(directory, `round-${number}.log`), ENTRIES_MAX);
  const client = new Client(cluster.urls, SECRET, log);
  const load = new Load({
    client,
    log,
    seed,
    labels: SHARDS,
    labelOf: (eventId) => SHARDS[shardOf(eventId)],
    requestsPerSecond: REQUESTS_PER_SECOND,
  });
  await load.start();
  await sleep(CALM_MS);
  const began = now();
  await Promise.all(
    faults.map(async (fault) => {
      const end = await fault.begin(cluster);
      await sleep(fault.seconds * 1_000);
      await end();
    }),
  );
  const ended = now();
  const recoverMs = Math.max(...faults.map((fault) => fault.recoverMs));
  await sleep(recoverMs + AFTER_MS);
  await load.stop();
  const outcomes = outcomesIn(readLog(log.file));
  const unsettled = await load.settle(SETTLE_MAX_MS);
  log.close();

  const entries = readLog(log.file);
  const facts = await factsFromDatabases(cluster.catalogUrl, entries);
  const { violations } = await audit(cluster.catalogUrl);
  const staleMs = Math.max(...faults.map((fault) => fault.staleMs));
  const broken = check(entries, facts, { staleMs, oneRouterEach: true });
  const measured = measure(outcomes, faults, { began, ended, recoverMs });
  const problems = [
    ...broken.map(({ promise, message }) => `${promise}: ${message}`),
    ...violations.map((violation) => `audit: ${JSON.stringify(violation)}`),
    ...cluster.surprises.splice(0),
    ...(unsettled === 0 ? [] : [`${unsettled} requests have no outcome`]),
    ...measured.problems,
  ];
  return { faults, requests: outcomes.length, bookings: facts.rows.length, ...measured, problems };
}

type Measured = Pick<Round, "failures" | "recoveredMs" | "othersP99" | "problems">;

/** What the faults may do to requests, compared with what they did. */
function measure(
  outcomes: readonly Outcome[],
  faults: readonly Fault[],
  { began, ended, recoverMs }: { began: number; ended: number; recoverMs: number },
): Measured {
  const touched = (outcome: Outcome, among = faults) =>
    among.some(({ touches }) => isTouched(outcome, touches));
  const mayFail = faults.filter((fault) => fault.mayFail);
  const during = outcomes.filter(({ sent, endedAt }) => endedAt >= began && sent.at < ended + recoverMs);
  const failed = outcomes.filter(({ failure }) => failure !== undefined);
  const wrong = failed.filter(
    (outcome) =>
      outcome.failure?.startsWith("500") === true || !during.includes(outcome) || !touched(outcome, mayFail),
  );
  const after = outcomes.filter(({ sent, failure }) => sent.at > ended && failure === undefined);
  const silent = SHARDS.filter((shard) => !after.some(({ label }) => label === shard));
  const others = outcomes.filter((outcome) => !touched(outcome));
  const before = others.filter(({ endedAt }) => endedAt < began);
  const meanwhile = others.filter((outcome) => during.includes(outcome) && outcome.sent.at < ended);
  const othersP99 = [quantile(before, 0.99), quantile(meanwhile, 0.99)] as const;
  const p99Max = Math.max(OTHERS_P99_FACTOR * othersP99[0], OTHERS_P99_MS);
  const tally = (some: readonly Outcome[]) =>
    Object.entries(failuresOf(some))
      .map(([reason, times]) => `${times} × ${reason}`)
      .join(", ");
  return {
    failures: failuresOf(failed),
    recoveredMs: Math.max(0, ...failed.map(({ sent }) => Math.round(sent.at - ended))),
    othersP99: meanwhile.length === 0 ? undefined : othersP99,
    problems: [
      ...(wrong.length === 0
        ? []
        : [`${wrong.length} requests failed that must not: ${tally(wrong)}; ${examples(wrong, ended)}`]),
      ...silent.map((shard) => `${shard} answered nothing after the faults`),
      ...(othersP99[1] <= p99Max ? [] : [`others' p99 was ${othersP99[1]} ms, before ${othersP99[0]} ms`]),
    ],
  };
}

const isTouched = ({ sent, label }: Outcome, { shards, routers, async = false }: Fault["touches"]): boolean =>
  (async && sent.async === true) ||
  routers.includes(sent.router) ||
  shards.some((shard) => SHARDS[shard] === label);

/** Where to look in the log. */
function examples(wrong: readonly Outcome[], ended: number): string {
  const shown = [...wrong.slice(0, 3), ...wrong.slice(3).slice(-2)].map(
    ({ sent, label, failure }) =>
      `request ${sent.id} (${sent.operation}, ${label}, router ${sent.router}, ${Math.round(sent.at - ended)} ms after the end): ${failure}`,
  );
  return shown.join("; ");
}
