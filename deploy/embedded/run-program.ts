/** Runs a program to its end, as a step of the start. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { StartError } from "./start-error.ts";

/** Resolves when it exits 0. Otherwise, also when `signal` ended it, throws StartError with its last lines of output. */
export async function runProgram(
  name: string,
  program: string,
  args: readonly string[],
  options: {
    runAs?: { cwd: string; uid?: number; gid?: number };
    env?: Readonly<Record<string, string | undefined>>;
    input?: string;
    signal?: AbortSignal | undefined;
  },
): Promise<void> {
  const { runAs, env, input = "", signal } = options;
  signal?.throwIfAborted();
  // Its own process group: Ctrl-C reaches it through `signal` only.
  const child = spawn(program, args, { ...runAs, ...(env && { env: { ...env } }), detached: true });
  const kill = () => child.pid !== undefined && process.kill(-child.pid, "SIGKILL"); // with its own children
  signal?.addEventListener("abort", kill);
  let said = "";
  for (const stream of [child.stdout, child.stderr])
    stream.on("data", (chunk: Buffer) => (said += chunk.toString()));
  child.stdin.on("error", () => {}); // it ended without reading; its exit code says why
  child.stdin.end(input);
  await once(child, "close");
  signal?.removeEventListener("abort", kill);
  signal?.throwIfAborted();
  if (child.exitCode === 0) return;
  const lastLines = said.trim().split("\n").slice(-3).join("; ");
  throw new StartError(`${name} failed (${child.signalCode ?? `exit code ${child.exitCode}`}): ${lastLines}`);
}
