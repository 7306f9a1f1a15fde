/**
 * Tells which process a pid means. A pid from a file may belong to another process by now: systems use pids again, and
 * every container starts counting at 1.
 */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";

/** The command line of a running process, or undefined when there is none with this pid. */
export function commandOf(pid: number): string | undefined {
  if (process.platform !== "linux") return ask(pid, "command=");
  const command = readIfThere(`/proc/${pid}/cmdline`);
  return command === "" ? undefined : command?.replaceAll("\0", " ");
}

/** When a running process started, as text to compare with; undefined when there is none. */
export function startOf(pid: number): string | undefined {
  if (process.platform !== "linux") return ask(pid, "lstart=");
  // Field 22, in ticks since boot. The program's name before it is in brackets and may contain any character.
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
