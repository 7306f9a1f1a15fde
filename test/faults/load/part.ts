/** One process of the cluster under load. It may be killed, stopped and started again; if it ends by itself, that is noted. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import type { ProcessSpec } from "../../../deploy/embedded/supervisor.ts";

const POLL_MS = 25;
const OUTPUT_MAX = 4_000;

export class Part {
  readonly name: string;
  readonly #spec: ProcessSpec;
  readonly #surprise: (what: string) => void;
  #child: ChildProcess | undefined;
  /** Its end is our doing. */
  #mayEnd = true;

  constructor(spec: ProcessSpec, surprise: (what: string) => void) {
    this.name = spec.name;
    this.#spec = spec;
    this.#surprise = surprise;
  }

  get isRunning(): boolean {
    const child = this.#child;
    return child !== undefined && child.exitCode === null && child.signalCode === null;
  }

  /** Resolves when it is ready. Throws, with what it said last, when that takes too long. */
  async start(): Promise<void> {
    const deadline = performance.now() + this.#spec.readyMaxMs;
    let output = "";
    for (let child: ChildProcess | undefined; ; await sleep(POLL_MS)) {
      // A killed server's children let go of its port and memory a moment after it.
      if (child === undefined || !this.isRunning)
        child = this.#spawn((piece) => (output = (output + piece).slice(-OUTPUT_MAX)));
      if (this.isRunning && (await this.#spec.isReady(child.pid ?? 0))) break;
      if (performance.now() > deadline) throw new Error(`${this.name} does not become ready:\n${output}`);
    }
    this.#mayEnd = false;
  }

  async kill(): Promise<void> {
    await this.#end("SIGKILL");
  }

  async stop(): Promise<void> {
    await this.#end(this.#spec.stopSignal);
  }

  /** From here on it may end by itself, as PostgreSQL does on a full disk; until it is started again. */
  mayEnd(): void {
    this.#mayEnd = true;
  }

  /** Its end is a surprise again. */
  isWatched(): void {
    this.#mayEnd = false;
  }

  /** Stops it and its children in their tracks; `SIGCONT` lets them go on. */
  signal(signal: "SIGSTOP" | "SIGCONT"): void {
    for (const pid of this.#family()) {
      try {
        process.kill(pid, signal);
      } catch {
        // It has ended meanwhile.
      }
    }
  }

  /** Lets it open no more files and connections, until the returned function is called. */
  denyFiles(): () => void {
    const pid = String(this.#child?.pid);
    const [, soft = ""] = /Max open files\s+(\d+)/.exec(readFileSync(`/proc/${pid}/limits`, "utf8")) ?? [];
    const limit = (files: string) => spawnSync("prlimit", ["--pid", pid, `--nofile=${files}:`]);
    limit("3"); // those it has keep working; what it closes cannot be opened again
    return () => void limit(soft);
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    this.#mayEnd = true;
    if (this.#child === undefined || !this.isRunning) return;
    const ended = once(this.#child, "exit");
    this.#child.kill(signal);
    if (signal !== "SIGKILL") this.signal("SIGCONT");
    await ended;
  }

  #family(): number[] {
    const pid = this.#child?.pid;
    if (pid === undefined || !this.isRunning) return [];
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").split(" ").filter(Boolean);
    return [pid, ...children.map(Number)];
  }

  #spawn(said: (piece: string) => void): ChildProcess {
    const { program, args, env, runAs, input, channel } = this.#spec;
    this.#spec.prepare?.();
    const child = spawn(program, args, {
      ...runAs,
      env: { ...env },
      detached: true,
      stdio: ["pipe", "pipe", "pipe", ...(channel ? ["ipc" as const] : [])],
    });
    let last = "";
    for (const stream of [child.stdout, child.stderr])
      stream?.on("data", (piece: Buffer) => {
        last = (last + piece.toString()).slice(-OUTPUT_MAX);
        said(piece.toString());
      });
    child.stdin?.on("error", () => undefined);
    child.stdin?.end(input);
    child.once("exit", (code, signal) => {
      if (!this.#mayEnd)
        this.#surprise(`${this.name} ended by itself (${signal ?? `exit code ${code}`}):\n${last}`);
    });
    this.#child = child;
    return child;
  }
}
