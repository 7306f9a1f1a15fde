/** The parent's side of service.ts: starts one of a baseline's own processes, asks it questions, ends it. */
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
  /** Where it answers HTTP; empty when it does not. */
  readonly url: string;
  /** Resolves with its statistics when it has done what was asked for. Throws when it could not, or has ended. */
  ask(question: Question): Promise<ContenderStats>;
}

/** Starts a script of this folder and waits until it is ready. Throws when it ends instead; then its reason is on stderr. */
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

/** What aborted says more than that it was aborted. */
async function orReason<T>(result: Promise<T>, signal: AbortSignal): Promise<T> {
  try {
    return await result;
  } catch (error) {
    throw signal.aborted ? signal.reason : error;
  }
}

/** Lets go of it, and it ends by itself (service.ts). */
async function end(child: ChildProcess): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, "exit");
  if (child.connected) child.disconnect();
  const late = setTimeout(() => child.kill("SIGKILL"), END_MAX_MS);
  await exited;
  clearTimeout(late);
}
