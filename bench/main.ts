/**
 * `npm run bench [-- PART … --seconds N --json]`: measures the product on this machine, against its targets and against
 * what others would write. Every part ends with the audit: a figure that was reached by breaking an invariant is not
 * shown.
 */
import { readArguments, usageOf } from "./arguments.ts";
import { startBenchCluster } from "./bench-cluster.ts";
import { PARTS } from "./parts/all.ts";
import { Progress } from "./progress.ts";
import { keepResults } from "./report/keep.ts";
import { type Failure, type PartResult, type Results, thisMachine } from "./report/results.ts";
import { textOf } from "./report/text.ts";
import { runPart } from "./run-part.ts";

const stop = new AbortController();
for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) {
  process.on(signal, () => stop.abort(new Error("interrupted")));
}

try {
  await main();
} catch (error) {
  process.stderr.write(`bench: ${reasonOf(error)}\n`);
  process.exitCode = 1;
}
process.exit();

async function main(): Promise<void> {
  const { parts, seconds, json, help, options } = readArguments(process.argv.slice(2), PARTS);
  if (help) return void process.stdout.write(usageOf(PARTS));
  const secondsOf = (part: (typeof parts)[number]) => seconds ?? part.seconds;
  const progress = new Progress(
    parts.map((part) => ({ name: part.name, estimatedSeconds: part.estimate(secondsOf(part)) })),
  );
  const [date, machine, started] = [new Date().toISOString(), thisMachine(), performance.now()];
  const done: PartResult[] = [];
  const failures: Failure[] = [];
  for (const part of parts) {
    progress.nextPart();
    try {
      const context = { seconds: secondsOf(part), options, signal: stop.signal, progress };
      done.push(await runPart(part, context, startBenchCluster));
    } catch (error) {
      failures.push({ part: part.name, reason: reasonOf(error) });
      progress.say(`${part.name}: ${reasonOf(error)}`);
    }
    if (stop.signal.aborted) break;
  }
  const begun = done.length + failures.length;
  failures.push(...parts.slice(begun).map(({ name }) => ({ part: name, reason: "not run" })));
  const results: Results = {
    date,
    command: `npm run bench -- ${process.argv.slice(2).join(" ")}`.replace(/ -- $/, ""),
    machine,
    tookSeconds: Math.round((performance.now() - started) / 1000),
    parts: done,
    failures,
  };
  process.stdout.write(json ? `${JSON.stringify(results, null, 2)}\n` : `\n${textOf(results)}\n`);
  if (done.length > 0) {
    const files = keepResults(results);
    progress.say(`kept in ${files.json}\nto look at: ${files.page}`);
  }
  if (failures.length > 0 || done.some(({ problems = [] }) => problems.length > 0)) process.exitCode = 1;
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
