/** Outside programs of a baseline. Each runs on 127.0.0.1, in a temporary directory, and ends with the bench. */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { onCore } from "../processes.ts";

const POLL_MS = 20;
const READY_MAX_MS = 60_000;
const END_MAX_MS = 20_000;
const LINES_SHOWN = 5;

/** Linux tells a program when its parent is gone, however it went (prctl(2), PR_SET_PDEATHSIG). */
const endsWithParent =
  spawnSync("setpriv", ["--pdeathsig", "TERM", "true"], { stdio: "ignore" }).status === 0;

export interface ProgramSpec {
  readonly name: string;
  readonly command: readonly [string, ...string[]];
  readonly env: Readonly<Record<string, string>>;
  /** The working directory, which also keeps the log. */
  readonly directory: string;
  readonly core: number | undefined;
  readonly signal: AbortSignal;
  /** Polled after the start until it is true. */
  isReady(): Promise<boolean>;
}

export interface Program extends AsyncDisposable {
  readonly pid: number;
  /** Sends SIGKILL; resolves when the program has ended. */
  kill(): Promise<void>;
}

/** Starts a program and waits until it is ready. Throws with its last lines when it does not become ready. */
export async function startProgram(spec: ProgramSpec): Promise<Program> {
  const { name, directory, core } = spec;
  const logFile = join(directory, `${name}.log`);
  const log = openSync(logFile, "a");
  const [program, ...flags] = onCore(
    core,
    endsWithParent ? ["setpriv", "--pdeathsig", "TERM", ...spec.command] : spec.command,
  );
  // A process group of its own: Ctrl-C does not reach it, and its children can be ended with it.
  const child = spawn(program, flags, {
    env: spec.env,
    cwd: directory,
    detached: true,
    stdio: ["ignore", log, log],
  });
  closeSync(log);
  child.on("error", () => undefined); // there is no pid then
  const { pid } = child;
  if (pid === undefined) throw new Error(`${name} cannot be started: ${spec.command.join(" ")}`);
  const exited = once(child, "exit");
  const runs = () => child.exitCode === null && child.signalCode === null;
  const killGroup = () => void (runs() && process.kill(-pid, "SIGKILL"));
  process.once("exit", killGroup);

  const kill = async (): Promise<void> => {
    killGroup();
    await exited;
    process.off("exit", killGroup);
  };
  const stop = async (): Promise<void> => {
    if (runs()) child.kill("SIGTERM");
    const late = setTimeout(killGroup, END_MAX_MS);
    await exited;
    clearTimeout(late);
    process.off("exit", killGroup);
  };
  try {
    const deadline = performance.now() + READY_MAX_MS;
    while (!(await spec.isReady())) {
      spec.signal.throwIfAborted();
      if (!runs() || performance.now() > deadline) {
        const lines = readFileSync(logFile, "utf8").trim().split("\n").slice(-LINES_SHOWN);
        throw new Error(`${name} did not start:\n${lines.join("\n")}`);
      }
      await sleep(POLL_MS);
    }
    return { pid, kill, [Symbol.asyncDispose]: stop };
  } catch (error) {
    await kill();
    throw error;
  }
}
