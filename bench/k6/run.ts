/**
 * `npm run k6 -- SCENARIO [--seconds N] [--rate N] [--own-cluster]`: has k6 run one scenario and ends with the audit. When an
 * invariant is broken, what k6 found out is thrown away (M1). Exit 0 when the audit is clean and all thresholds hold.
 */
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { auditedBookings } from "../audited.ts";
import { Progress } from "../progress.ts";
import { findK6, K6_EXIT, runK6 } from "./program.ts";
import { readSettings, SCENARIOS } from "./script/settings.ts";
import { ownCluster, runningCluster } from "./target.ts";

const USAGE = `use: npm run k6 -- ${SCENARIOS.join("|")} [--seconds N] [--rate N] [--own-cluster]`;
const RESULTS = join(import.meta.dirname, "../results");
/** Booting a cluster, making events and the audit. */
const AROUND_SECONDS = 10;

const stop = new AbortController();
// Several arrive for one Ctrl-C: the terminal's own, and the one that npm passes on.
for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) {
  process.on(signal, () => stop.abort(new Error("interrupted")));
}

const directory = mkdtempSync(join(tmpdir(), "onsale-k6-"));
try {
  process.exitCode = await main();
} catch (error) {
  process.stderr.write(`k6: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
} finally {
  rmSync(directory, { recursive: true });
}
process.exit();

/** Answers the exit code. */
async function main(): Promise<number> {
  const { scenario, ...asked } = readArguments();
  const env = { ...process.env, ...asked.env };
  // Everything that can be wrong is found before anything is started.
  const { durationSeconds } = readSettings(scenario, { ...env, AUTH_JWT_SECRET: "found later" });
  const program = findK6(process.env);
  if (program === undefined)
    throw new Error(
      "there is no k6 on PATH or where go install puts it; bench/k6/README.md says how to build it",
    );
  const running = asked.ownCluster ? undefined : await runningCluster(process.env);

  const date = new Date().toISOString();
  const progress = new Progress([{ name: scenario, estimatedSeconds: durationSeconds + AROUND_SECONDS }]);
  progress.nextPart();
  await using target = running ?? (await ownCluster({ signal: stop.signal, progress }));
  progress.show("k6 sends the load");
  const [said, metrics] = [join(directory, "said.txt"), join(directory, "metrics.json")];
  const code = await runK6(program, join(import.meta.dirname, `${scenario}.ts`), {
    env: { ...env, ROUTER_URL: target.routerUrl, AUTH_JWT_SECRET: target.secret },
    files: { said, metrics },
    signal: stop.signal,
  });
  progress.show("auditing");
  const bookings = auditedBookings(await target.audit());
  const [clean, interrupted] = [`audit clean: ${bookings} bookings`, code === K6_EXIT.interrupted];
  if (code !== 0 && code !== K6_EXIT.thresholdsCrossed && !interrupted)
    throw new Error(`k6 ended with exit code ${code}, and says why above; ${clean}`);

  mkdirSync(RESULTS, { recursive: true });
  const kept = join(RESULTS, `k6-${scenario}-${date.replaceAll(":", "-")}.json`);
  copyFileSync(metrics, kept);
  progress.say(`kept in ${kept}`);
  const end = interrupted ? "it was interrupted, and " : "";
  process.stdout.write(`${readFileSync(said, "utf8")}\n${end}${clean}\n`);
  return code === 0 ? 0 : 1;
}

/** Throws, with one line for people, when there is no such scenario or option. */
function readArguments() {
  const { values, positionals } = parse();
  const scenario = SCENARIOS.find((name) => name === positionals[0]);
  if (scenario === undefined || positionals.length > 1) {
    const wrong = positionals.join(" ");
    throw new Error(wrong === "" ? USAGE : `there is no scenario '${wrong}'; ${USAGE}`);
  }
  const { seconds: DURATION_SECONDS, rate: RATE_PER_SECOND, "own-cluster": own = false } = values;
  return {
    scenario,
    ownCluster: own,
    env: { ...(DURATION_SECONDS && { DURATION_SECONDS }), ...(RATE_PER_SECOND && { RATE_PER_SECOND }) },
  };
}

function parse() {
  try {
    return parseArgs({
      allowPositionals: true,
      options: { seconds: { type: "string" }, rate: { type: "string" }, "own-cluster": { type: "boolean" } },
    });
  } catch (error) {
    // Its first sentence names the option; the rest is advice about option syntax.
    const [reason = ""] = (error instanceof Error ? error.message : String(error)).split(/\.\s/);
    throw new Error(`${reason}; ${USAGE}`, { cause: error });
  }
}
