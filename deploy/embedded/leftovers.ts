/**
 * Ends the processes that a killed supervisor left running. Roles end with their supervisor; PostgreSQL and Redis do not.
 * So DATA_DIR notes every process that is started. The next start ends those still running, found by pid and start time:
 * a pid alone may belong to another process by now.
 */
import { existsSync, readFileSync, realpathSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { z } from "zod";
import { writePrivately } from "./data-dir.ts";
import { startOf } from "./process-identity.ts";
import { reasonOf, StartError } from "./start-error.ts";

const STOP_MAX_SECONDS = 25;

const noteSchema = z.object({
  /** Notes in a copy of another cluster's DATA_DIR say nothing about our processes. */
  dataDir: z.string(),
  processes: z.record(
    z.string(),
    z.object({ pid: z.number(), start: z.string(), signal: z.enum(["SIGTERM", "SIGINT"]) }),
  ),
});
export type StopSignal = "SIGTERM" | "SIGINT";

/** Notes running processes, and finds those of the previous start. */
export class ProcessNotes {
  readonly #file: string;
  readonly #dataDir: string;
  #processes: z.infer<typeof noteSchema>["processes"] = {};

  constructor(dataDir: string) {
    this.#file = join(dataDir, "processes.json");
    this.#dataDir = realpathSync(dataDir);
  }

  /** Call it right after the process has started. */
  add(name: string, pid: number, signal: StopSignal): void {
    const start = startOf(pid);
    if (start === undefined) return; // it has ended already
    this.#processes[name] = { pid, start, signal };
    writePrivately(this.#file, { dataDir: this.#dataDir, processes: this.#processes });
  }

  /** Ends what the previous start left running, and resolves to the names of those processes. */
  async endLeftovers(): Promise<string[]> {
    if (!existsSync(this.#file)) return [];
    const notes = noteSchema.parse(JSON.parse(readFileSync(this.#file, "utf8")));
    if (notes.dataDir !== this.#dataDir) return [];
    const left = Object.entries(notes.processes).filter(([, { pid, start }]) => startOf(pid) === start);
    await Promise.all(left.map(([, { pid, start, signal }]) => end(pid, start, signal)));
    return left.map(([name]) => name);
  }
}

async function end(pid: number, start: string, signal: StopSignal): Promise<void> {
  const deadline = Date.now() + STOP_MAX_SECONDS * 1000;
  for (let next: NodeJS.Signals | undefined = signal; startOf(pid) === start; await sleep(50)) {
    if (next !== undefined) sendSignal(pid, next);
    next = Date.now() > deadline ? "SIGKILL" : undefined;
  }
}

function sendSignal(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    // A process that is gone already is fine. Any other error, such as another user's process, is for the user to solve.
    if (startOf(pid) !== undefined)
      throw new StartError(`pid ${pid} of an earlier start is left: ${reasonOf(error)}`);
  }
}
