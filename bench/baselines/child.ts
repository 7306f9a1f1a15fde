/** The parent's side of service.ts: starts a process of a baseline, asks it questions, and ends it. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { onCore } from "../processes.ts";
import type { ContenderStats } from "./contender.ts";
import type { Asked, Question, Said, ServiceSettings } from "./service.ts";

const READY_MAX_MS = 20_000;
const END_MAX_MS = 20_000;

export interface Child extends AsyncDisposable {
  readonly pid: number;
  /** Its HTTP address; empty when it serves no HTTP. */
  readonly url: string;
  /** Resolves with the statistics of the process when it has answered. Throws when the process failed or ended. */
  ask(question: Question): Promise<ContenderStats>;
}

/** Starts a script of this folder and waits until it is ready. Throws when the script ends instead; its reason is on stderr. */
export async function startChild(
  script: string,
  settings: ServiceSettings,
  options: { signal: AbortSignal; core: number | undefined },
): Promise<Child> {
  const path = fileURLToPath(new URL(script, import.meta.url));
  const [program, ...flags] = onCore(options.core, [process.execPath, path]);
  const child = spawn(program, flags, { stdio: ["ignore", "inherit", "inherit", "ipc"] });
  const ended = new AbortController();
  child.once("exit", () => ended.abort(new Error(`${script} of ${settings.name} has ended`)));
  child.once("error", (error) => ended.abort(error));
  try {
    child.send(settings);
    const either = AbortSignal.any([options.signal, ended.signal, AbortSignal.timeout(READY_MAX_MS)]);
    const [said] = (await orReason(once(child, "message", { signal: either }), either)) as [Said];
    return {
      pid: child.pid ?? 0,
      url: said.kind === "ready" ? said.url : "",
      ask: questions(child, ended.signal),
      [Symbol.asyncDispose]: async () => end(child),
    };
  } catch (error) {
    await end(child);
    throw error;
  }
}

function questions(child: ChildProcess, ended: AbortSignal): Child["ask"] {
  const open = new Map<number, (said: Extract<Said, { kind: "answer" }>) => void>();
  child.on("message", (said: Said) => {
    if (said.kind === "answer") open.get(said.number)?.(said);
  });
  let number = 0;
  return async (question) => {
    ended.throwIfAborted();
    const asked: Asked = { number: (number += 1), question };
    const { promise, resolve, reject } = Promise.withResolvers<Extract<Said, { kind: "answer" }>>();
    const gone = () => reject(ended.reason as Error);
    ended.addEventListener("abort", gone);
    open.set(asked.number, resolve);
    child.send(asked);
    try {
      const { fault, stats } = await promise;
      if (fault !== undefined) throw new Error(fault);
      return stats;
    } finally {
      open.delete(asked.number);
      ended.removeEventListener("abort", gone);
    }
  };
}

/** The reason of an abort says more than the error that it caused. */
async function orReason<T>(result: Promise<T>, signal: AbortSignal): Promise<T> {
  try {
    return await result;
  } catch (error) {
    throw signal.aborted ? signal.reason : error;
  }
}

/** Closes the channel; the process then ends by itself (service.ts). */
async function end(child: ChildProcess): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, "exit");
  if (child.connected) child.disconnect();
  const late = setTimeout(() => child.kill("SIGKILL"), END_MAX_MS);
  await exited;
  clearTimeout(late);
}
