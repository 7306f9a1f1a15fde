/**
 * Processor time of processes, exact where the system counts in nanoseconds (Linux with scheduler statistics). The usual
 * hundredths of a second are too coarse for many processes that are each busy for a tenth of one.
 */
import { readdirSync, readFileSync } from "node:fs";
import { processorSeconds, processorSecondsOfTree } from "../../processes.ts";

const NANOSECONDS = 1e9;

/** Of all its threads, in seconds. */
export function exactSeconds(pid: number): number {
  return threadSeconds(pid) ?? processorSeconds(pid);
}

/** Of a process and all below it, in seconds. What has ended since is missing. */
export function exactSecondsOfTree(pid: number): number {
  const own = threadSeconds(pid);
  if (own === undefined) return processorSecondsOfTree(pid);
  return childrenOf(pid).reduce((sum, child) => sum + exactSecondsOfTree(child), own);
}

/** The processes that a process has started; none where the system does not say. */
export function childrenOf(pid: number): number[] {
  return (read(`/proc/${pid}/task/${pid}/children`) ?? "").split(" ").filter(Boolean).map(Number);
}

function threadSeconds(pid: number): number | undefined {
  const statistics = threadsOf(pid).map((thread) => read(`/proc/${pid}/task/${thread}/schedstat`));
  if (statistics.length === 0 || statistics.includes(undefined)) return undefined;
  return statistics.reduce((sum, text) => sum + Number.parseInt(text ?? "", 10), 0) / NANOSECONDS;
}

function threadsOf(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/task`);
  } catch {
    return [];
  }
}

function read(file: string): string | undefined {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return undefined;
  }
}
