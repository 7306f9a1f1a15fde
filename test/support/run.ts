/** Programs of the project as processes of their own, with exactly the environment that a test gives them. */
import { resolve } from "node:path";
import { execa } from "execa";

const ROOT = `${import.meta.dirname}/../..`;

export type Program = ReturnType<typeof start>;

/** Starts `node SCRIPT ...args`, SCRIPT from the project's folder unless it is absolute; killed when disposed. */
export function start(
  script: string,
  env: Readonly<Record<string, string>> = {},
  args: readonly string[] = [],
) {
  const child = execa(process.execPath, [resolve(ROOT, script), ...args], {
    env: { PATH: process.env["PATH"] ?? "", ...env },
    extendEnv: false,
    reject: false,
    stripFinalNewline: false,
    forceKillAfterDelay: false,
  });
  let printed = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => (printed += text));
  const exited = child.then(({ exitCode, signal, stdout, stderr }) => ({
    code: exitCode,
    signal,
    stdout,
    stderr,
  }));
  return {
    pid: child.pid ?? 0,
    exited,
    /** What it has printed so far. */
    printed: () => printed,
    stop: (signal: NodeJS.Signals) => void child.kill(signal),
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await exited;
    },
  };
}
