/** Programs of the project as processes of their own, with exactly the environment that a test gives them. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { resolve } from "node:path";
import { text } from "node:stream/consumers";

const ROOT = `${import.meta.dirname}/../..`;

export interface Program extends AsyncDisposable {
  readonly pid: number;
  readonly exited: Promise<{ code: number | null; signal: string | null; stdout: string; stderr: string }>;
  stop(signal: NodeJS.Signals): void;
}

/** Starts `node SCRIPT ...args`, SCRIPT from the project's folder unless it is absolute; killed when disposed. */
export function start(
  script: string,
  env: Readonly<Record<string, string>> = {},
  args: readonly string[] = [],
): Program {
  const child = spawn(process.execPath, [resolve(ROOT, script), ...args], {
    env: { PATH: process.env["PATH"] ?? "", ...env },
  });
  const ended = once(child, "exit");
  const exited = Promise.all([ended, text(child.stdout), text(child.stderr)]).then(
    ([[code, signal], stdout, stderr]) => ({
      code: code as number | null,
      signal: signal as string | null,
      stdout,
      stderr,
    }),
  );
  return {
    pid: child.pid ?? 0,
    exited,
    stop: (signal) => void child.kill(signal),
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await exited;
    },
  };
}
