/**
 * `npm run k6 -- SCENARIO [--seconds N] [--rate N] [--own-cluster]`: runs one scenario with k6 and ends with the audit. When
 * an invariant is broken there is no figure, and none is kept (M1). Exit 0 when the audit is clean and all thresholds hold.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { auditedBookings } from "../audited.ts";
import { Progress } from "../progress.ts";
import { type PartResult, type Results, thisMachine } from "../report/results.ts";
import { textOf } from "../report/text.ts";
import { readArguments } from "./arguments.ts";
import { readSettings } from "./lib/settings.ts";
import { findK6, K6_EXIT, runK6 } from "./program.ts";
import { keepRun, outcomeOf, readRun, type Run } from "./report.ts";
import { ownCluster, runningCluster, type Target } from "./target.ts";

/** Booting a cluster, making events and the audit. */
const AROUND_SECONDS = 10;

const stop = new AbortController();
// Several arrive for one Ctrl-C: the terminal's own, and the one that npm passes on.
for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) {
  process.on(signal, () => stop.abort(new Error("interrupted")));
}

try {
  await main();
} catch (error) {
  process.stderr.write(`k6: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
process.exit();

async function main(): Promise<void> {
  const asked = readArguments(process.argv.slice(2));
  const { scenario } = asked;
  const given = { ...process.env, ...asked.env };
  // Everything that can be wrong is found before anything is started.
  const { durationSeconds } = readSettings(scenario, { ...given, AUTH_JWT_SECRET: "found later" });
  const program = findK6(process.env);
  if (program === undefined) {
    throw new Error(
      "there is no k6 on PATH or where go install puts it; bench/k6/README.md says how to build it",
    );
  }
  const running = asked.ownCluster ? undefined : await runningCluster(process.env);

  const [date, machine, started] = [new Date().toISOString(), thisMachine(), performance.now()];
  const progress = new Progress([{ name: scenario, estimatedSeconds: durationSeconds + AROUND_SECONDS }]);
  progress.nextPart();
  await using target = running ?? (await ownCluster({ signal: stop.signal, progress }));
  const { code, run } = await load(program, scenario, { target, env: given });
  progress.show("auditing");
  const bookings = auditedBookings(await target.audit());
  if (run === undefined) {
    const why =
      code === K6_EXIT.interrupted
        ? "it was interrupted before it began"
        : `k6 ended with exit code ${code}, and says why above`;
    throw new Error(`no load: ${why}; the audit is clean, ${bookings} bookings`);
  }

  const { figures, problems = [] } = outcomeOf(run);
  const tookSeconds = Math.round((performance.now() - started) / 1000);
  const part: PartResult = {
    part: scenario,
    title: `k6 ${scenario}`,
    secondsAMeasurement: durationSeconds,
    tookSeconds,
    figures,
    problems: [...problems, ...problemsOf(code, run)],
    auditedBookings: bookings,
  };
  const command = `npm run k6 -- ${process.argv.slice(2).join(" ")}`;
  const results: Results = { date, command, machine, tookSeconds, parts: [part], failures: [] };
  progress.say(`kept in ${keepRun(results, run)}`);
  process.stdout.write(`\n${textOf(results)}\n`);
  if (part.problems !== undefined && part.problems.length > 0) process.exitCode = 1;
}

/** Has k6 run the scenario. Its figures go through a file that is gone afterwards: they may turn out to be none. */
async function load(
  program: string,
  scenario: string,
  { target, env }: { target: Target; env: Readonly<Record<string, string | undefined>> },
): Promise<{ code: number | null; run: Run | undefined }> {
  const directory = mkdtempSync(join(tmpdir(), "onsale-k6-"));
  try {
    const file = join(directory, "run.json");
    const { routerUrl: ROUTER_URL, secret: AUTH_JWT_SECRET } = target;
    const code = await runK6(program, join(import.meta.dirname, `${scenario}.ts`), {
      env: { ...env, ROUTER_URL, AUTH_JWT_SECRET, RESULT_FILE: file, AUDIT_FOLLOWS: "yes" },
      signal: stop.signal,
    });
    return { code, run: readRun(file) };
  } finally {
    rmSync(directory, { recursive: true });
  }
}

/** What k6's exit code says beyond the thresholds. */
function problemsOf(code: number | null, { seconds }: Run): string[] {
  if (code === 0 || code === K6_EXIT.thresholdsCrossed) return [];
  if (code === K6_EXIT.interrupted) return [`it was interrupted after ${Math.round(seconds)} s`];
  return [`k6 ended with exit code ${code}, and says why above`];
}
