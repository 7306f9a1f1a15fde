/** A hundred bookings a second for twenty events while something changes, and the verdict on every answer. */
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { EventId, ShardId } from "../../shared/domain/ids.ts";
import { slotOf } from "../../shared/domain/slots.ts";
import { check } from "../faults/witness/check.ts";
import { Client, now } from "../faults/witness/client.ts";
import { factsFrom, type Part } from "../faults/witness/facts.ts";
import { failuresOf, type Outcome, outcomesIn, quantile } from "../faults/witness/figures.ts";
import { Load } from "../faults/witness/load.ts";
import { readLog, WitnessLog } from "../faults/witness/log.ts";
import { kubectl, query, routerUrl, secretOf } from "./release.ts";

/** A shard that lost something sells again after this time. */
export const RECOVERED_MS = 10_000;
const EVENTS_PER_SHARD = 10;
/** Half of them are reads of events; of the others, seven in ten book or hold. */
const REQUESTS_PER_SECOND = 320;
const CALM_MS = 3_000;
const AFTER_MS = 3_000;
const SETTLE_MAX_MS = 30_000;
const ENTRIES_MAX = 500_000;

export interface Rush {
  readonly what: string;
  readonly outcomes: readonly Outcome[];
  /** When the change began, by `now()`. */
  readonly began: number;
  readonly changeMs: number;
  /** What must not be. */
  readonly problems: readonly string[];
}

export interface RushOptions {
  /** Where the log of requests is kept. */
  readonly directory: string;
  /** How old a read may be meanwhile. */
  readonly staleMs?: number;
}

let rushes = 0;

/** Sells to events of all shards that own slots, makes the change, and compares all answers with the databases. */
export async function rush(
  what: string,
  change: () => Promise<void>,
  { directory, staleMs = 1_000 }: RushOptions,
): Promise<Rush> {
  const slots = await query<{ slot: number; shard: ShardId }>("catalog", {
    text: "select slot, shard_id as shard from slots order by slot",
  });
  const owners = slots.map(({ shard }) => shard);
  // A shard that was given a few slots has no events to speak of.
  const shards = [...new Set(owners)].filter(
    (shard) => owners.filter((owner) => owner === shard).length > slots.length / 10,
  );
  const seed = Math.floor(Math.random() * 2 ** 31);
  rushes += 1;
  const log = new WitnessLog(join(directory, `${rushes}-seed-${seed}.log`), ENTRIES_MAX);
  const secret = await secretOf("onsale-secrets", "AUTH_JWT_SECRET");
  const load = new Load({
    client: new Client([await routerUrl()], secret, log),
    log,
    seed,
    labels: shards,
    labelOf: (event) => owners[slotOf(event as EventId)] ?? "",
    requestsPerSecond: REQUESTS_PER_SECOND,
    stagesPerLabel: EVENTS_PER_SHARD,
  });
  await load.start();
  await sleep(CALM_MS);
  const began = now();
  let ended: number;
  let unsettled: number;
  try {
    await change();
  } finally {
    ended = now();
    await sleep(Math.max(AFTER_MS, began + RECOVERED_MS + AFTER_MS - ended));
    await load.stop();
    unsettled = await load.settle(SETTLE_MAX_MS);
    log.close();
  }
  const entries = readLog(log.file);
  const facts = await factsFrom(entries, async (statement, ids) => {
    const parts = shards.map(async (shard) => query<Part>(shard, statement, [`{${ids.join(",")}}`]));
    return (await Promise.all(parts)).flat();
  });
  const broken = check(entries, facts, { staleMs, oneRouterEach: false });
  // Throws with the rows that break a rule.
  await kubectl("exec", "deployment/onsale-auditor", "--", "node", "audit/main.ts");
  return {
    what,
    outcomes: outcomesIn(entries),
    began,
    changeMs: ended - began,
    problems: [
      ...broken.map(({ promise, message }) => `${promise}: ${message}`),
      ...(unsettled === 0 ? [] : [`${unsettled} requests have no outcome`]),
    ],
  };
}

const OVERLOADED = "503 overloaded";

/** Requests without a decision. Those that are told that nothing was done, because the machine is too slow, are counted apart. */
export function failedIn({ outcomes }: Pick<Rush, "outcomes">): readonly Outcome[] {
  return outcomes.filter(({ failure }) => failure !== undefined && failure !== OVERLOADED);
}

export function overloadedIn({ outcomes }: Rush): number {
  return failuresOf(outcomes)[OVERLOADED] ?? 0;
}

export const requestsPerSecondIn = ({ outcomes }: Rush): number => outcomes.length / secondsOf(outcomes);

function secondsOf(outcomes: readonly Outcome[]): number {
  return ((outcomes.at(-1)?.sent.at ?? 0) - (outcomes[0]?.sent.at ?? 0)) / 1_000;
}

const COLUMNS = [
  "while",
  "change",
  "requests",
  "bookings/s",
  "p50",
  "p99",
  "failed",
  "last failure",
  "overloaded",
];

/** What was measured, for people. */
export function tableOf(rushes: readonly Rush[]): string {
  const rows = rushes.map((each) => {
    const { what, outcomes, began, changeMs } = each;
    const failed = failedIn(each);
    const bookings = outcomes.filter(
      ({ sent: { operation } }) => operation === "book" || operation === "hold",
    );
    const lastMs = Math.max(...failed.map(({ sent }) => sent.at - began));
    return [
      what,
      `${(changeMs / 1_000).toFixed(1)} s`,
      outcomes.length,
      (bookings.length / secondsOf(outcomes)).toFixed(0),
      `${quantile(outcomes, 0.5)} ms`,
      `${quantile(outcomes, 0.99)} ms`,
      failed.length,
      failed.length === 0 ? "" : `${(lastMs / 1_000).toFixed(1)} s`,
      overloadedIn(each),
    ].map(String);
  });
  const widths = COLUMNS.map((name, column) =>
    Math.max(name.length, ...rows.map((row) => row[column]?.length ?? 0)),
  );
  return [COLUMNS, ...rows]
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}
