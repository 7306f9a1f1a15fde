/** Starts the benchmark's own processes: the load generator, and the bare server that reads are compared with. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import type { Progress } from "../progress.ts";
import { onCore } from "../processes.ts";
import type { BareAnswer } from "./bare-server.ts";
import type { Target } from "./connection.ts";
import type { LoadMessage, LoadPlan, LoadReport } from "./plan.ts";

const RUN_SLACK_MS = 30_000;
const ALL_REQUESTS_MAX_MS = 600_000;

/** Runs a load to its end. `core` keeps it on that core, where the system can. Throws when it is cut short. */
export async function runLoad(
  plan: LoadPlan,
  options: { signal: AbortSignal; progress: Progress; label: string; core?: number },
): Promise<LoadReport> {
  const { signal, progress, label } = options;
  const limitMs =
    plan.seconds > 0 ? (plan.warmUpSeconds + plan.seconds) * 1000 + RUN_SLACK_MS : ALL_REQUESTS_MAX_MS;
  await using script = startScript("process.ts", AbortSignal.any([signal, AbortSignal.timeout(limitMs)]), {
    core: options.core,
  });
  script.process.send(plan);
  for (;;) {
    const message = await script.next<LoadMessage>();
    if (message.kind === "report") return message.report;
    const rate = Math.round(message.answers / message.seconds);
    progress.show(`${label}: ${Math.round(message.seconds)} s, ${rate.toLocaleString("en")}/s`);
  }
}

/** Starts a bare `node:http` server that says always the same. */
export async function startBareServer(
  answer: BareAnswer,
  options: { signal: AbortSignal; core?: number },
): Promise<Target & { pid: number } & AsyncDisposable> {
  const script = startScript("bare-server.ts", options.signal, { core: options.core });
  script.process.send(answer);
  const port = await script.next<number>();
  const pid = script.process.pid ?? 0;
  return { host: "127.0.0.1", port, pid, [Symbol.asyncDispose]: async () => script[Symbol.asyncDispose]() };
}

interface Script extends AsyncDisposable {
  readonly process: ChildProcess;
  /** What it says next. Throws when it ends or the signal aborts instead. */
  next<Message>(): Promise<Message>;
}

function startScript(file: string, signal: AbortSignal, options: { core: number | undefined }): Script {
  const path = fileURLToPath(new URL(file, import.meta.url));
  const [program, ...flags] = onCore(options.core, [process.execPath, path]);
  const child = spawn(program, flags, { stdio: ["ignore", "inherit", "inherit", "ipc"] });
  const ended = once(child, "exit");
  const exited = new AbortController();
  child.once("exit", () => exited.abort(new Error(`${file} ended before it answered`)));
  const either = AbortSignal.any([signal, exited.signal]);
  return {
    process: child,
    async next<Message>() {
      const [message] = (await once(child, "message", { signal: either })) as [Message];
      return message;
    },
    async [Symbol.asyncDispose]() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      child.kill("SIGKILL");
      await ended;
    },
  };
}
