/** Starts the benchmark's own processes: load generators, and the servers that others are compared with. */
import { type ChildProcess, spawn } from "node:child_process";
import { EventEmitter, once } from "node:events";
import { fileURLToPath } from "node:url";
import { onCore } from "../processes.ts";
import type { Progress } from "../progress.ts";
import type { BareAnswer } from "./bare-server.ts";
import type { Target } from "./connection.ts";
import type { LoadMessage, LoadPlan, LoadReport } from "./plan.ts";

const RUN_SLACK_MS = 30_000;
const ALL_REQUESTS_MAX_MS = 600_000;

/** A load generator in a process of its own. */
export interface Generator extends AsyncDisposable {
  readonly pid: number;
  /** Runs a load to its end, one at a time; what was minted and compiled for one serves the next. Throws when cut short. */
  run(plan: LoadPlan, label: string): Promise<LoadReport>;
}

export interface GeneratorOptions {
  readonly signal: AbortSignal;
  readonly progress: Progress;
  /** Keeps it on that core, where the system can. */
  readonly core?: number;
}

export function startGenerator({ signal, progress, core }: GeneratorOptions): Generator {
  const script = startScript("process.ts", core);
  return {
    pid: script.pid,
    async run(plan, label) {
      const limitMs =
        plan.seconds > 0 ? (plan.warmUpSeconds + plan.seconds) * 1000 + RUN_SLACK_MS : ALL_REQUESTS_MAX_MS;
      const limit = AbortSignal.any([signal, AbortSignal.timeout(limitMs)]);
      progress.show(label);
      script.process.send(plan);
      try {
        for (;;) {
          const message = await script.next<LoadMessage>(limit);
          if (message.kind === "report") return message.report;
          if (message.kind === "failed") throw new Error(message.reason);
          const rate = Math.round(message.answers / message.seconds);
          progress.show(`${label}: ${Math.round(message.seconds)} s, ${rate.toLocaleString("en")}/s`);
        }
      } catch (error) {
        // A load that was cut short still reports, and its report would be taken for the next one.
        if (limit.aborted) await script[Symbol.asyncDispose]();
        throw error;
      }
    },
    [Symbol.asyncDispose]: async () => script[Symbol.asyncDispose](),
  };
}

/** One load from a generator of its own. */
export async function runLoad(
  plan: LoadPlan,
  { label, ...options }: GeneratorOptions & { label: string },
): Promise<LoadReport> {
  await using generator = startGenerator(options);
  return await generator.run(plan, label);
}

/** A server that always gives the same answer. */
export interface SameServer extends Target, AsyncDisposable {
  readonly pid: number;
}

/** Starts a bare `node:http` server. */
export async function startBareServer(
  answer: BareAnswer,
  options: { signal: AbortSignal; core?: number },
): Promise<SameServer> {
  return startServer("bare-server.ts", answer, options);
}

/** Starts the cheapest possible server: it answers these bytes to everything, unread. */
export async function startCannedServer(
  answer: string,
  options: { signal: AbortSignal; core?: number },
): Promise<SameServer> {
  return startServer("canned-server.ts", answer, options);
}

async function startServer(
  file: string,
  answer: BareAnswer | string,
  { signal, core }: { signal: AbortSignal; core?: number },
): Promise<SameServer> {
  const script = startScript(file, core);
  script.process.send(answer);
  const port = await script.next<number>(signal);
  return {
    host: "127.0.0.1",
    port,
    pid: script.pid,
    [Symbol.asyncDispose]: async () => script[Symbol.asyncDispose](),
  };
}

interface Script extends AsyncDisposable {
  readonly process: ChildProcess;
  readonly pid: number;
  /** Its next message. Throws when the process ends or the signal aborts. */
  next<Message>(signal: AbortSignal): Promise<Message>;
}

function startScript(file: string, core: number | undefined): Script {
  const path = fileURLToPath(new URL(file, import.meta.url));
  const [program, ...flags] = onCore(core, [process.execPath, path]);
  const child = spawn(program, flags, { stdio: ["ignore", "inherit", "inherit", "ipc"] });
  const ended = once(child, "exit");
  const exited = new AbortController();
  child.once("exit", () => exited.abort(new Error(`${file} ended before it answered`)));
  // Two messages may arrive together, before anybody waits for the second.
  const inbox: unknown[] = [];
  const arrivals = new EventEmitter();
  child.on("message", (message) => {
    inbox.push(message);
    arrivals.emit("message");
  });
  return {
    process: child,
    pid: child.pid ?? 0,
    async next<Message>(signal: AbortSignal) {
      const either = AbortSignal.any([signal, exited.signal]);
      while (inbox.length === 0) await once(arrivals, "message", { signal: either });
      return inbox.shift() as Message;
    },
    async [Symbol.asyncDispose]() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      child.kill("SIGKILL");
      await ended;
    },
  };
}
