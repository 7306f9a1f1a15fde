/** k6 as a program: where it is, and one run of it. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { delimiter, join } from "node:path";

type Environment = Readonly<Record<string, string | undefined>>;

/** Its exit codes that mean something here (k6's source, errext/exitcodes). */
export const K6_EXIT = { thresholdsCrossed: 99, interrupted: 105 } as const;

/** A k6 that was told to end lets iterations finish, then runs teardown. */
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
  const { status, stdout } = spawnSync("go", ["env", "GOBIN", "GOPATH"], {
    env: { ...env },
    encoding: "utf8",
  });
  const [bin = "", path = ""] = status === 0 ? stdout.split("\n") : [];
  const paths = (path === "" ? join(env["HOME"] ?? homedir(), "go") : path).split(delimiter);
  return [...(bin === "" ? [] : [bin]), ...paths.map((directory) => join(directory, "bin"))];
}

/** Runs a script to its end and resolves to the exit code; null when it was killed. `signal` asks k6 to end early. */
export async function runK6(
  program: string,
  script: string,
  { env, signal }: { env: Environment; signal: AbortSignal },
): Promise<number | null> {
  // Its progress is for people; on a terminal it rewrites its lines there.
  const args = ["run", ...(process.stderr.isTTY ? [] : ["--quiet"]), script];
  const child = spawn(program, args, {
    env: {
      ...env,
      // It goes to the cluster and nowhere else.
      K6_NO_USAGE_REPORT: "true",
      K6_AUTO_EXTENSION_RESOLUTION: "false",
    },
    // Ctrl-C reaches it through `signal`, once: k6 takes a second one as an order to drop everything.
    detached: true,
    stdio: ["ignore", process.stderr, process.stderr],
  });
  const kill = () => void child.kill("SIGKILL");
  process.once("exit", kill);
  const stop = () => stopSoon(child);
  signal.addEventListener("abort", stop, { once: true });
  if (signal.aborted) stop();
  try {
    const [code] = (await once(child, "exit")) as [number | null];
    return code;
  } finally {
    signal.removeEventListener("abort", stop);
    process.off("exit", kill);
  }
}

function stopSoon(child: ChildProcess): void {
  child.kill("SIGINT");
  const late = setTimeout(() => child.kill("SIGKILL"), STOP_MAX_MS);
  child.once("exit", () => clearTimeout(late));
}
