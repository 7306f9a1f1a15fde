/**
 * `npm run faults`: a cluster of real processes under load, one fault after the other, and the witness's verdict on each.
 * With `--minutes N` it mixes them at random. The seed that it prints gives the same faults and the same load again.
 */
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { seededRandom } from "../../../bench/random.ts";
import type { LoadedCluster } from "./cluster.ts";
import { Clusters } from "./clusters.ts";
import { FAULTS, type Fault } from "./faults.ts";
import { lineOf, tableOf } from "./report.ts";
import { type Round, runRound } from "./round.ts";

const USAGE = `use: npm run faults -- [--only TEXT] [--with TEXT] [--minutes N] [--seed N] [--list]
  --only TEXT   those faults whose name contains it
  --with TEXT   each together with the first whose name contains this
  --minutes N   at random, some of them two at a time, for about as long
  --seed N      the same choices again
  --list        shows what there is, and runs nothing
`;
/** How many of the rounds of a mix have two faults. */
const PAIRS_SHARE = 0.3;
const PROBLEMS_SHOWN = 20;

const stop = new AbortController();
for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) process.on(signal, () => stop.abort());

try {
  await main();
} catch (error) {
  process.stderr.write(
    `faults: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`,
  );
  process.exitCode = 1;
}
process.exit();

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      only: { type: "string" },
      with: { type: "string" },
      minutes: { type: "string" },
      seed: { type: "string" },
      list: { type: "boolean" },
      help: { type: "boolean", short: "h" },
    },
  });
  if (values.help === true) return void process.stdout.write(USAGE);
  const chosen = FAULTS.filter(({ name }) => name.includes(values.only ?? ""));
  if (chosen.length === 0) throw new Error(`no fault is called "${values.only}"; --list shows them`);
  if (values.list === true)
    return void process.stdout.write(`${chosen.map(({ name }) => name).join("\n")}\n`);
  const companion =
    values.with === undefined ? undefined : FAULTS.find(({ name }) => name.includes(values.with ?? ""));
  if (values.with !== undefined && companion === undefined)
    throw new Error(`no fault is called "${values.with}"`);
  const seed = numberOf("seed", values.seed, Math.floor(Math.random() * 2 ** 31));
  const minutes = values.minutes === undefined ? undefined : numberOf("minutes", values.minutes, 0);
  const directory = mkdtempSync(join(tmpdir(), "onsale-faults-"));
  process.stdout.write(`seed ${seed}, logs in ${directory}\n`);

  const random = seededRandom(seed);
  const rounds: Round[] = [];
  const until = performance.now() + (minutes ?? Infinity) * 60_000;
  await using clusters = new Clusters(seed);
  for (const faults of minutes === undefined ? oneByOne(chosen, companion) : mixed(chosen, random)) {
    if (stop.signal.aborted || performance.now() > until) break;
    const roundSeed = Math.floor(random() * 2 ** 31);
    const cluster = await clusters.for(faults);
    const possible = faults.filter((fault) => isPossible(fault, cluster));
    if (possible.length === 0) continue;
    const round = await runRound(cluster, possible, {
      seed: roundSeed,
      directory,
      number: rounds.length + 1,
    });
    rounds.push(round);
    process.stdout.write(`${rounds.length}. ${lineOf(round)}\n`);
    for (const problem of round.problems.slice(0, PROBLEMS_SHOWN)) process.stdout.write(`   ${problem}\n`);
  }
  const broken = rounds.filter(({ problems }) => problems.length > 0).length;
  process.stdout.write(
    `\n${tableOf(rounds)}\nseed ${seed}: ${rounds.length} rounds, ${broken} with broken promises\n`,
  );
  if (broken > 0 || rounds.length === 0) process.exitCode = 1;
}

function numberOf(name: string, given: string | undefined, otherwise: number): number {
  const number = given === undefined ? otherwise : Number(given);
  if (Number.isInteger(number) && number >= 0) return number;
  throw new Error(`--${name} ${given}: give a whole number`);
}

function isPossible(fault: Fault, cluster: LoadedCluster): boolean {
  const obstacle = fault.obstacle?.(cluster);
  if (obstacle !== undefined) process.stdout.write(`SKIPPED: ${fault.name}: ${obstacle}\n`);
  return obstacle === undefined;
}

function canMeet(one: Fault, other: Fault): boolean {
  return one.victim !== other.victim && one.needs === undefined && other.needs === undefined;
}

function oneByOne(faults: readonly Fault[], companion: Fault | undefined): Fault[][] {
  if (companion === undefined) return faults.map((fault) => [fault]);
  return faults.filter((fault) => canMeet(fault, companion)).map((fault) => [fault, companion]);
}

/** All in a random order, then all again; some take another one with them. */
function* mixed(faults: readonly Fault[], random: () => number): Generator<Fault[]> {
  for (;;) {
    const order = faults.map((fault) => ({ fault, place: random() })).toSorted((a, b) => a.place - b.place);
    while (order.length > 0) {
      const [first] = order.splice(0, 1).map(({ fault }) => fault);
      if (first === undefined) break;
      const other = order.findIndex(({ fault }) => canMeet(first, fault));
      const more = random() < PAIRS_SHARE && other >= 0 ? order.splice(other, 1) : [];
      yield [first, ...more.map(({ fault }) => fault)];
    }
  }
}
