/**
 * What a pid stands for. The number alone says little: systems use it again, and containers start counting at 1 each
 * time, so a pid read from a file may by now be somebody else's process.
 */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";

/** The command line of a running process, or undefined when there is none with this pid. */
export function commandOf(pid: number): string | undefined {
  if (process.platform !== "linux") return ask(pid, "command=");
  const command = readIfThere(`/proc/${pid}/cmdline`);
  return command === "" ? undefined : command?.replaceAll("\0", " ");
}

/** When a running process was started, in words that are only good for comparing; undefined when there is none. */
export function startOf(pid: number): string | undefined {
  if (process.platform !== "linux") return ask(pid, "lstart=");
  // Field 22, in ticks since boot. The program's name before it is in brackets and may itself contain anything.
  const ticks = readIfThere(`/proc/${pid}/stat`)
    ?.replace(/^.*\) /s, "")
    .split(" ")[19];
  return ticks === undefined
    ? undefined
    : `${readIfThere("/proc/sys/kernel/random/boot_id")?.trim()} ${ticks}`;
}

function readIfThere(file: string): string | undefined {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return undefined;
  }
}

function ask(pid: number, column: string): string | undefined {
  const { status, stdout } = spawnSync("ps", ["-o", column, "-p", String(pid)], { encoding: "utf8" });
  return status === 0 ? stdout.trim() : undefined;
}
