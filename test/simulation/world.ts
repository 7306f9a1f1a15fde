/**
 * A world in which nothing happens by chance: its own time, its own event loop, one sequence of random numbers. Product code runs
 * in it unchanged, because the world takes the place of Node's timers, clocks and random ids. Import it before product code.
 *
 * Code runs as part of a process: a router, a node, a database. What a process starts later is its own too. A process that was
 * killed runs no more, a paused one runs what it missed when it goes on. Each has a clock of its own, which may be wrong.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import crypto, { createHash } from "node:crypto";
import { syncBuiltinESMExports } from "node:module";
import timersPromises from "node:timers/promises";
import { seededRandom } from "../../bench/random.ts";

/** 2030-01-01, when every run begins. */
const EPOCH_MS = 1_893_456_000_000;

const turnOfNode = globalThis.setImmediate;

export interface Process {
  readonly name: string;
  state: "runs" | "paused" | "dead";
  /** How far its clock of the day is ahead. */
  skewMs: number;
  /** Its `performance.now()` at the beginning of the world. */
  readonly bootMs: number;
  /** What it missed while it was paused. */
  readonly missed: Task[];
}

interface Task {
  readonly at: number;
  readonly order: number;
  readonly process: Process | undefined;
  readonly run: () => void;
  cancelled: boolean;
}

export class World {
  readonly seed: number;
  readonly random: () => number;
  readonly #bits: () => number;
  readonly #queue: Task[] = [];
  readonly #lines: string[] = [];
  #now = 0;
  #order = 0;
  #tasks = 0;

  constructor(seed: number) {
    this.seed = seed;
    this.random = seededRandom(seed);
    this.#bits = seededRandom(seed ^ 0x5eed1d5);
  }

  /** Milliseconds since the beginning. */
  get now(): number {
    return this.#now;
  }

  get lines(): readonly string[] {
    return this.#lines;
  }

  /** Two runs of a seed have the same. */
  get hash(): string {
    return createHash("sha256")
      .update(`${this.#tasks}\n${this.#lines.join("\n")}`)
      .digest("hex");
  }

  /** RFC 3339. */
  get time(): string {
    return new Date(EPOCH_MS + this.#now).toISOString();
  }

  between(low: number, high: number): number {
    return low + (high - low) * this.random();
  }

  chance(probability: number): boolean {
    return this.random() < probability;
  }

  pick<T>(items: readonly T[]): T {
    return items[Math.floor(this.random() * items.length)] as T;
  }

  uuid(): string {
    const part = (): string =>
      Math.floor(this.#bits() * 2 ** 32)
        .toString(16)
        .padStart(8, "0");
    const text = part() + part() + part() + part();
    return `${text.slice(0, 8)}-${text.slice(8, 12)}-4${text.slice(13, 16)}-8${text.slice(17, 20)}-${text.slice(20)}`;
  }

  bytes(count: number): Buffer {
    return Buffer.from(Array.from({ length: count }, () => Math.floor(this.#bits() * 256)));
  }

  start(name: string, skewMs = 0): Process {
    const bootMs = Math.floor(this.between(1_000, 1_000_000));
    return { name, state: "runs", skewMs, bootMs, missed: [] };
  }

  kill(process: Process): void {
    process.state = "dead";
    process.missed.length = 0;
  }

  pause(process: Process): void {
    if (process.state === "runs") process.state = "paused";
  }

  resume(process: Process): void {
    if (process.state !== "paused") return;
    process.state = "runs";
    for (const { run } of process.missed.splice(0)) this.after(0, run, process);
  }

  /** Runs later, as part of a process: by default of the one that asks. */
  after(ms: number, run: () => void, process = running.getStore()): Task {
    const task = {
      at: this.#now + Math.max(0, ms),
      order: (this.#order += 1),
      process,
      run,
      cancelled: false,
    };
    push(this.#queue, task);
    return task;
  }

  sleep(ms: number): Promise<void> {
    return new Promise((resolve) => void this.after(ms, resolve));
  }

  note(line: string): void {
    const name = running.getStore()?.name;
    this.#lines.push(`${this.#now.toFixed(3)} ${name === undefined ? "" : `${name}: `}${line}`);
  }

  /** Runs the next task. Throws when there is none, or when it is due after `maxMs`. */
  step(maxMs: number): void {
    const task = pop(this.#queue);
    if (task === undefined) throw new Error("nothing is left to do, and somebody still waits");
    if (task.at > maxMs) throw new Error(`the run did not end within ${maxMs} ms`);
    if (task.cancelled || task.process?.state === "dead") return;
    if (task.process?.state === "paused") return void task.process.missed.push(task);
    this.#now = Math.max(this.#now, task.at);
    this.#tasks += 1;
    if (task.process === undefined) return task.run();
    return running.run(task.process, task.run);
  }
}

/** Runs one task of a world after the other until `done`. Throws as `step` does. */
export async function runWorld(world: World, done: () => boolean, maxMs: number): Promise<void> {
  current = world;
  try {
    while (!done()) {
      world.step(maxMs);
      // Everything that follows without a timer: promises and ticks.
      await new Promise((resolve) => void turnOfNode(resolve));
    }
  } finally {
    current = undefined;
  }
}

const running = new AsyncLocalStorage<Process>();
let current: World | undefined;

export function world(): World {
  if (current === undefined) throw new Error("there is no world outside of a run");
  return current;
}

/** The process whose code runs. */
export function self(): Process {
  const process = running.getStore();
  if (process === undefined) throw new Error("this code belongs to no process");
  return process;
}

export function inProcess<T>(process: Process, run: () => T): T {
  return running.run(process, run);
}

function before(a: Task, b: Task): boolean {
  return a.at < b.at || (a.at === b.at && a.order < b.order);
}

/** Adds to a binary heap. */
function push(heap: Task[], task: Task): void {
  let at = heap.push(task) - 1;
  while (at > 0) {
    const parent = (at - 1) >> 1;
    if (!before(task, heap[parent] as Task)) break;
    heap[at] = heap[parent] as Task;
    at = parent;
  }
  heap[at] = task;
}

/** Takes the first from a binary heap. */
function pop(heap: Task[]): Task | undefined {
  const [first] = heap;
  const last = heap.pop();
  if (last === undefined || heap.length === 0) return first;
  let at = 0;
  for (;;) {
    let child = 2 * at + 1;
    if (child >= heap.length) break;
    if (child + 1 < heap.length && before(heap[child + 1] as Task, heap[child] as Task)) child += 1;
    if (!before(heap[child] as Task, last)) break;
    heap[at] = heap[child] as Task;
    at = child;
  }
  heap[at] = last;
  return first;
}

/** What product code gets from setTimeout and setImmediate. */
class Timer {
  readonly #task: Task;

  constructor(task: Task) {
    this.#task = task;
  }

  cancel(): void {
    this.#task.cancelled = true;
  }

  ref(): this {
    return this;
  }

  unref(): this {
    return this;
  }

  [Symbol.dispose](): void {
    this.cancel();
  }
}

type Callback = (...values: unknown[]) => void;

/** Like Node's timers, a pause is a millisecond at least. */
function setTimer(run: Callback, ms = 1, ...values: unknown[]): Timer {
  return new Timer(world().after(Math.max(1, ms), () => run(...values)));
}

function cancelTimer(timer: unknown): void {
  if (timer instanceof Timer) timer.cancel();
}

function timeoutSignal(ms: number): AbortSignal {
  if (!(ms >= 0)) throw new RangeError(`a timeout of ${ms} ms`);
  const controller = new AbortController();
  setTimer(
    () => controller.abort(new DOMException("The operation was aborted due to timeout", "TimeoutError")),
    ms,
  );
  return controller.signal;
}

async function pause(
  ms?: number,
  value?: unknown,
  { signal }: { signal?: AbortSignal } = {},
): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const abort = (): void => reject(new DOMException("The operation was aborted", "AbortError"));
    if (signal?.aborted === true) return abort();
    const timer = setTimer(() => {
      signal?.removeEventListener("abort", abort);
      resolve(value);
    }, ms);
    signal?.addEventListener("abort", () => {
      timer.cancel();
      abort();
    });
    return undefined;
  });
}

const systemNow = Date.now;
const systemElapsed = performance.now.bind(performance);

Object.assign(globalThis, {
  setTimeout: setTimer,
  clearTimeout: cancelTimer,
  setImmediate: (run: Callback, ...values: unknown[]) => new Timer(world().after(0, () => run(...values))),
  clearImmediate: cancelTimer,
  setInterval: () => {
    throw new Error("the simulated world has no intervals");
  },
});
Object.assign(AbortSignal, { timeout: timeoutSignal });
Object.assign(timersPromises, { setTimeout: pause });
Object.assign(Date, {
  now: () =>
    current === undefined
      ? systemNow()
      : Math.floor(EPOCH_MS + current.now + (running.getStore()?.skewMs ?? 0)),
});
Object.assign(performance, {
  now: () => (current === undefined ? systemElapsed() : current.now + (running.getStore()?.bootMs ?? 0)),
});
Object.assign(Math, { random: () => world().random() });
const { randomUUID, randomBytes } = crypto;
Object.assign(crypto, {
  randomUUID: () => current?.uuid() ?? randomUUID(),
  randomBytes: (count: number) => current?.bytes(count) ?? randomBytes(count),
});
syncBuiltinESMExports();
