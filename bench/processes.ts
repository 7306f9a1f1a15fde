/** Processes as the system sees them: which cores they may use, how much time and memory they used (Linux; else unknown). */
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";

const canPin =
  availableParallelism() > 1 && spawnSync("taskset", ["-c", "0", "true"], { stdio: "ignore" }).status === 0;

/** The command line that keeps a program on one core, or the given one where that cannot be had. */
export function onCore(
  core: number | undefined,
  command: readonly [string, ...string[]],
): [string, ...string[]] {
  return core === undefined || !canPin ? [...command] : ["taskset", "-c", String(core), ...command];
}

/** Keeps a running process on one core until disposed. Says whether it did. */
export function pin(pid: number, core: number): { pinned: boolean } & Disposable {
  const move = (cores: string) =>
    canPin && spawnSync("taskset", ["-a", "-c", "-p", cores, String(pid)], { stdio: "ignore" }).status === 0;
  const pinned = move(String(core));
  return { pinned, [Symbol.dispose]: () => void (pinned && move(`0-${availableParallelism() - 1}`)) };
}

/** Resident memory in megabytes (10^6 bytes), or undefined where /proc does not say. */
export function residentMegabytes(pid: number): { now: number; peak: number } | undefined {
  const status = readProc(`${pid}/status`);
  const field = (name: string) =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(status)?.[1]) * 1.024e-3;
  return status === "" ? undefined : { now: field("VmRSS"), peak: field("VmHWM") };
}

const TICKS_PER_SECOND = 100;

/** Processor seconds of a process so far, its threads included; 0 where /proc does not say. */
export function processorSeconds(pid: number): number {
  return timesOf(pid).own;
}

/**
 * The same for a process and all below it, those included that have ended: PostgreSQL has one for each connection, and
 * RabbitMQ's program is a script that starts another.
 */
export function processorSecondsOfTree(pid: number): number {
  const { own, endedChildren } = timesOf(pid);
  return childrenOf(pid).reduce((sum, child) => sum + processorSecondsOfTree(child), own + endedChildren);
}

function timesOf(pid: number): { own: number; endedChildren: number } {
  // The name in parentheses may hold anything; fields 14 to 17 of all count from after it (proc_pid_stat(5)).
  const fields = readProc(`${pid}/stat`)
    .replace(/^.*\) /s, "")
    .split(" ");
  const seconds = (first: number) =>
    (Number(fields[first] ?? 0) + Number(fields[first + 1] ?? 0)) / TICKS_PER_SECOND;
  return { own: exactSeconds(pid) ?? seconds(11), endedChildren: seconds(13) };
}

/** Of all threads, in seconds, from the scheduler's own statistics: ticks are too coarse for many processes that do little. */
function exactSeconds(pid: number): number | undefined {
  const times = threadsOf(pid).map((thread) => readProc(`${pid}/task/${thread}/schedstat`));
  if (times.length === 0 || times.includes("")) return undefined;
  return times.reduce((sum, time) => sum + Number.parseInt(time, 10), 0) / 1e9;
}

function childrenOf(pid: number): number[] {
  return threadsOf(pid).flatMap((thread) =>
    readProc(`${pid}/task/${thread}/children`).split(" ").filter(Boolean).map(Number),
  );
}

function threadsOf(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/task`);
  } catch {
    return [];
  }
}

function readProc(file: string): string {
  try {
    return readFileSync(`/proc/${file}`, "utf8");
  } catch {
    return "";
  }
}
