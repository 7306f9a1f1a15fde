/**
 * A thread of a simulated process: it does one thing at a time, in the order of arrival, as an event loop and a database
 * session do. In a cluster each has a core of its own; on a small machine they share a few. Times are milliseconds.
 */
import type { Agenda } from "./agenda.ts";

export interface Processor {
  /** Does `work` milliseconds of work when all that came before is done, then calls `done`. */
  run(work: number, done?: () => void): void;
  /** All work taken on so far. */
  readonly busyMs: number;
}

export class OwnCore implements Processor {
  busyMs = 0;
  protected freeAt = 0;
  protected readonly agenda: Agenda;

  constructor(agenda: Agenda) {
    this.agenda = agenda;
  }

  run(work: number, done?: () => void): void {
    this.freeAt = Math.max(this.agenda.now, this.freeAt) + work;
    this.busyMs += work;
    if (done !== undefined) this.agenda.at(this.freeAt, done);
  }
}

/**
 * A router of a cluster: beside the bookings that the simulation follows, it answers very many requests by itself. They
 * come independently of each other, and are gone through only when somebody asks, without an entry in the agenda for
 * each: only how long they wait is of interest.
 */
export class BusyCore extends OwnCore {
  readonly #next: () => { readonly gap: number; readonly work: number };
  readonly #answered: (milliseconds: number, at: number) => void;
  #arrival: number;
  #work: number;

  /** `next` says how long after the one before a request comes and how much work it is. */
  constructor(
    agenda: Agenda,
    next: () => { readonly gap: number; readonly work: number },
    answered: (milliseconds: number, at: number) => void,
  ) {
    super(agenda);
    this.#next = next;
    this.#answered = answered;
    ({ gap: this.#arrival, work: this.#work } = next());
  }

  override run(work: number, done?: () => void): void {
    this.catchUp();
    super.run(work, done);
  }

  /** Goes through what came up to now. */
  catchUp(): void {
    while (this.#arrival <= this.agenda.now) {
      this.freeAt = Math.max(this.#arrival, this.freeAt) + this.#work;
      this.busyMs += this.#work;
      this.#answered(this.freeAt - this.#arrival, this.#arrival);
      const { gap, work } = this.#next();
      this.#arrival += gap;
      this.#work = work;
    }
  }
}

/** Cores that several threads share as a fair scheduler shares them: all that have work advance at the same speed. */
export class SharedCores {
  readonly #agenda: Agenda;
  readonly #cores: number;
  readonly #threads: Thread[] = [];
  /** How far a thread has come that always had work; it goes slower than time when more have work than there are cores. */
  #progress = 0;
  #at = 0;
  #wakeUps = 0;

  constructor(agenda: Agenda, cores: number) {
    this.#agenda = agenda;
    this.#cores = cores;
  }

  thread(): Processor {
    const thread = new Thread((work, done) => this.#enter(thread, work, done));
    this.#threads.push(thread);
    return thread;
  }

  #enter(thread: Thread, work: number, done: (() => void) | undefined): void {
    this.#advance();
    thread.queue.push({ work, done });
    if (thread.queue.length === 1) thread.readyAt = this.#progress + work;
    this.#wake();
  }

  get #running(): Thread[] {
    return this.#threads.filter(({ queue }) => queue.length > 0);
  }

  get #speed(): number {
    return Math.min(1, this.#cores / this.#running.length);
  }

  #advance(): void {
    if (this.#running.length > 0) this.#progress += (this.#agenda.now - this.#at) * this.#speed;
    this.#at = this.#agenda.now;
  }

  /** Enters when the next thread is ready. Whatever changes before that enters anew, and this entry finds out. */
  #wake(): void {
    const first = this.#first();
    if (first === undefined) return;
    this.#wakeUps += 1;
    const wakeUp = this.#wakeUps;
    this.#agenda.after(Math.max(0, first.readyAt - this.#progress) / this.#speed, () => {
      if (wakeUp === this.#wakeUps) this.#finish(first);
    });
  }

  #finish(thread: Thread): void {
    this.#advance();
    const finished = thread.queue.shift();
    const [next] = thread.queue;
    if (next !== undefined) thread.readyAt = Math.max(thread.readyAt, this.#progress) + next.work;
    finished?.done?.();
    this.#wake();
  }

  #first(): Thread | undefined {
    let first: Thread | undefined;
    for (const thread of this.#running) {
      if (first === undefined || thread.readyAt < first.readyAt) first = thread;
    }
    return first;
  }
}

class Thread implements Processor {
  busyMs = 0;
  readonly queue: { readonly work: number; readonly done: (() => void) | undefined }[] = [];
  /** The progress at which the first of the queue is done. */
  readyAt = 0;
  readonly #enter: (work: number, done: (() => void) | undefined) => void;

  constructor(enter: (work: number, done: (() => void) | undefined) => void) {
    this.#enter = enter;
  }

  run(work: number, done?: () => void): void {
    this.busyMs += work;
    this.#enter(work, done);
  }
}
