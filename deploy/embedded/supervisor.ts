/**
 * Keeps one process running until it is told to stop. A process that ends is started again, at first at once, then after
 * pauses that double.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import type { ProcessNotes, StopSignal } from "./leftovers.ts";
import { reasonOf, StartError } from "./start-error.ts";

const PAUSE_FIRST_MS = 200;
const PAUSE_MAX_MS = 5_000;
/** A process that ran this long counts as healthy: its next pause is the shortest again. */
const HEALTHY_AFTER_MS = 10_000;
const READY_POLL_MS = 25;

export interface ProcessSpec {
  readonly name: string;
  readonly program: string;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly runAs?: { cwd: string; uid?: number; gid?: number };
  /** Text for the program's standard input. */
  readonly input?: string;
  /** A file for its output; without one it is forwarded line by line. */
  readonly logFile?: string;
  /** Programs of this project hold a channel to the supervisor and end with it. */
  readonly channel: boolean;
  readonly stopSignal: StopSignal;
  readonly stopMaxMs: number;
  readonly readyMaxMs: number;
  /** Runs before every start. */
  prepare?(): void;
  isReady(pid: number): boolean | Promise<boolean>;
}

export interface Surroundings {
  readonly notes: ProcessNotes;
  /** Shows one line to the user. */
  readonly say: (line: string) => void;
  /** Called when a process has a new pid. */
  readonly changed: () => void;
}

export class SupervisedProcess {
  readonly spec: ProcessSpec;
  readonly #surroundings: Surroundings;
  readonly #stopping = new AbortController();
  #child: ChildProcess | undefined;
  #pid: number | undefined;
  #pauseMs = PAUSE_FIRST_MS;

  constructor(spec: ProcessSpec, surroundings: Surroundings) {
    this.spec = spec;
    this.#surroundings = surroundings;
  }

  /** The pid of the last start. */
  get pid(): number | undefined {
    return this.#pid;
  }

  /** Starts it, waits until it is ready, and keeps it running. Throws StartError when it does not become ready. */
  async start(signal: AbortSignal): Promise<void> {
    const { name, logFile, readyMaxMs } = this.spec;
    signal.throwIfAborted();
    const child = this.#spawn();
    const deadline = Date.now() + readyMaxMs;
    while (isRunning(child)) {
      signal.throwIfAborted();
      if (await this.spec.isReady(this.#pid ?? 0)) {
        void this.#keepRunning(child);
        return;
      }
      if (Date.now() > deadline) throw new StartError(`${name} was not ready within ${readyMaxMs / 1000} s`);
      await sleep(READY_POLL_MS);
    }
    const where = logFile === undefined ? "its reason is above" : `see ${logFile}`;
    throw new StartError(`${name} did not start (${endOf(child)}); ${where}`);
  }

  /** Stops it for good; resolves when it has ended. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    const child = this.#child;
    if (child === undefined || !isRunning(child)) return;
    const ended = once(child, "exit");
    child.kill(this.spec.stopSignal);
    const killer = setTimeout(() => {
      this.#surroundings.say(
        `${this.spec.name} did not stop within ${this.spec.stopMaxMs / 1000} s and was killed`,
      );
      child.kill("SIGKILL");
    }, this.spec.stopMaxMs);
    await ended;
    clearTimeout(killer);
  }

  async #keepRunning(first: ChildProcess): Promise<void> {
    const stopping = this.#stopping.signal;
    for (let child: ChildProcess | undefined = first; ; child = this.#spawnAgain()) {
      const startedAt = Date.now();
      if (child !== undefined && isRunning(child)) await once(child, "exit");
      if (stopping.aborted) return;
      if (Date.now() - startedAt >= HEALTHY_AFTER_MS) this.#pauseMs = PAUSE_FIRST_MS;
      this.#surroundings.say(
        `${this.spec.name} ended (${endOf(child)}); starting it again in ${this.#pauseMs} ms`,
      );
      await sleep(this.#pauseMs, undefined, { signal: stopping }).catch(() => {});
      if (stopping.aborted) return;
      this.#pauseMs = Math.min(this.#pauseMs * 2, PAUSE_MAX_MS);
    }
  }

  /** A start may fail, on a full disk say; the next may succeed. */
  #spawnAgain(): ChildProcess | undefined {
    try {
      return this.#spawn();
    } catch (error) {
      this.#surroundings.say(`${this.spec.name} cannot be started: ${reasonOf(error)}`);
      return undefined;
    }
  }

  #spawn(): ChildProcess {
    const { name, program, args, env, runAs, input, logFile, channel, stopSignal } = this.spec;
    this.spec.prepare?.();
    const log = logFile === undefined ? undefined : openSync(logFile, "a", 0o600);
    const output = log ?? "pipe";
    const child = spawn(program, args, {
      ...runAs,
      env: { ...env },
      // A process group of its own: a terminal sends Ctrl-C to the whole group of `npm start`, but the supervisor decides
      // in which order processes stop.
      detached: true,
      stdio: [input === undefined ? "ignore" : "pipe", output, output, ...(channel ? ["ipc" as const] : [])],
    });
    if (log !== undefined) closeSync(log);
    child.on("error", (error) => this.#surroundings.say(`${name}: ${error.message}`));
    for (const stream of [child.stdout, child.stderr]) {
      if (stream)
        createInterface({ input: stream }).on("line", (line) => this.#surroundings.say(`[${name}] ${line}`));
    }
    child.stdin?.on("error", () => {}); // it ended without reading; `exit` handles that
    child.stdin?.end(input);
    this.#child = child;
    if (child.pid !== undefined) {
      this.#pid = child.pid;
      this.#surroundings.notes.add(name, child.pid, stopSignal);
      this.#surroundings.changed();
    }
    return child;
  }
}

const isRunning = (child: ChildProcess) =>
  child.pid !== undefined && child.exitCode === null && child.signalCode === null;

function endOf(child: ChildProcess | undefined): string {
  if (child === undefined) return "it cannot be run";
  return child.signalCode ?? (child.exitCode === null ? "it cannot be run" : `exit code ${child.exitCode}`);
}
