/**
 * `npm run bench [-- PART … --seconds N --json]`: measures the product on this machine against its targets. Every part
 * gets a fresh cluster and ends with the audit: a figure that was reached by breaking an invariant is not shown.
 */
import { parseArgs } from "node:util";
import { startBenchCluster } from "./cluster.ts";
import type { Part, PartContext } from "./part.ts";
import { engine } from "./parts/engine.ts";
import { hotEvent } from "./parts/hot-event.ts";
import { memory } from "./parts/memory.ts";
import { reads } from "./parts/reads.ts";
import { soldOut } from "./parts/sold-out.ts";
import { Progress } from "./progress.ts";
import { keepResults, type PartResult, type Results, tableOf, thisMachine } from "./report.ts";

const PARTS = { engine, "hot-event": hotEvent, reads, "sold-out": soldOut, memory } satisfies Record<
  string,
  Part
>;
const SECONDS_DEFAULT = 10;
const SECONDS_MAX = 300;
const ROWS_SHOWN = 20;

const progress = new Progress();
const stop = new AbortController();
for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) {
  process.on(signal, () => stop.abort(new Error("interrupted")));
}

try {
  const { parts, seconds, json } = readArguments();
  const results: PartResult[] = [];
  for (const name of parts) {
    try {
      results.push(await run(name, { seconds, signal: stop.signal, progress }));
    } catch (error) {
      fail(`${name}: `, error);
      if (stop.signal.aborted) break;
    }
  }
  if (results.length > 0) show(results, json);
} catch (error) {
  fail("bench: ", error);
}
process.exit();

function show(parts: readonly PartResult[], json: boolean): void {
  const command = `npm run bench -- ${process.argv.slice(2).join(" ")}`.replace(/ -- $/, "");
  const all: Results = { date: new Date().toISOString(), command, machine: thisMachine(), parts };
  const file = keepResults(all);
  process.stdout.write(json ? `${JSON.stringify(all, null, 2)}\n` : `\n${tableOf(all)}\n`);
  progress.say(`kept in ${file}`);
}

/** Says why and makes the exit code 1. The other parts still run. */
function fail(where: string, error: unknown): void {
  progress.say(where + (error instanceof Error ? error.message : String(error)));
  process.exitCode = 1;
}

async function run(name: keyof typeof PARTS, context: Omit<PartContext, "cluster">): Promise<PartResult> {
  const started = performance.now();
  await using cluster = await startBenchCluster(context);
  const figures = await PARTS[name]({ ...context, cluster });
  progress.show(`${name}: auditing`);
  const { bookings, violations } = await cluster.audit();
  if (violations.length > 0) {
    const rows = violations.slice(0, ROWS_SHOWN).map((violation) => `\n  ${JSON.stringify(violation)}`);
    throw new Error(`the audit found ${violations.length} broken rows, so no figures${rows.join("")}`);
  }
  progress.say(`${name}: done in ${Math.round((performance.now() - started) / 1000)} s, audit clean`);
  return { part: name, figures, audit: { bookings, violations: violations.length } };
}

function readArguments(): { parts: (keyof typeof PARTS)[]; seconds: number; json: boolean } {
  const known = Object.keys(PARTS) as (keyof typeof PARTS)[];
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      seconds: { type: "string", default: String(SECONDS_DEFAULT) },
      json: { type: "boolean", default: false },
    },
  });
  const seconds = Number(values.seconds);
  const unknown = positionals.filter((given) => !known.some((part) => part === given));
  if (unknown.length > 0 || !(seconds >= 1 && seconds <= SECONDS_MAX)) {
    throw new Error(`use: npm run bench -- [${known.join("|")}]… [--seconds 1…${SECONDS_MAX}] [--json]`);
  }
  const parts = known.filter((part) => positionals.length === 0 || positionals.includes(part));
  return { parts, seconds, json: values.json };
}
