/** k6 as a program: where it is, and one run of it. */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { closeSync, existsSync, openSync } from "node:fs";
import { homedir } from "node:os";
import { delimiter, join } from "node:path";

type Environment = Readonly<Record<string, string | undefined>>;

/** Exit codes that matter here (k6's source, errext/exitcodes). */
export const K6_EXIT = { thresholdsCrossed: 99, interrupted: 105 } as const;

/** When k6 is told to end, it lets iterations finish and then runs teardown. */
const STOP_MAX_MS = 60_000;

/** The k6 on PATH, or the one that `go install` has made; undefined when there is neither. */
export function findK6(env: Environment): string | undefined {
  const path = (env["PATH"] ?? "").split(delimiter).filter((directory) => directory !== "");
  return [...path, ...goBins(env)]
    .map((directory) => join(directory, "k6"))
    .find((program) => existsSync(program));
}

/** Where `go install` puts programs. */
function goBins(env: Environment): string[] {
  const go = spawnSync("go", ["env", "GOBIN", "GOPATH"], { env: { ...env }, encoding: "utf8" });
  const [bin = "", path = ""] = go.status === 0 ? go.stdout.split("\n") : [];
  const paths = (path === "" ? join(env["HOME"] ?? homedir(), "go") : path).split(delimiter);
  return [...(bin === "" ? [] : [bin]), ...paths.map((directory) => join(directory, "bin"))];
}

/**
 * Runs a script to its end and resolves to the exit code; null when it was killed. `signal` asks k6 to end early. The files get
 * its summary, as text and as JSON; its complaints go to stderr.
 */
export async function runK6(
  program: string,
  script: string,
  options: { env: Environment; files: { said: string; metrics: string }; signal: AbortSignal },
): Promise<number | null> {
  const { env, files, signal } = options;
  const said = openSync(files.said, "w");
  const flags = ["--quiet", "--no-color", "--no-usage-report", "--summary-export", files.metrics];
  const child = spawn(program, ["run", ...flags, script], {
    env: { ...env, K6_AUTO_EXTENSION_RESOLUTION: "false" },
    // Ctrl-C reaches k6 once, through `signal`: after a second one k6 drops everything.
    detached: true,
    stdio: ["ignore", said, process.stderr],
  });
  closeSync(said);
  const exited = once(child, "exit");
  const kill = () => void child.kill("SIGKILL");
  process.once("exit", kill);
  let late: NodeJS.Timeout | undefined;
  const stop = () => {
    child.kill("SIGINT");
    late = setTimeout(kill, STOP_MAX_MS);
  };
  signal.addEventListener("abort", stop, { once: true });
  if (signal.aborted) stop();
  try {
    const [code] = (await exited) as [number | null];
    return code;
  } finally {
    clearTimeout(late);
    signal.removeEventListener("abort", stop);
    process.off("exit", kill);
  }
}
