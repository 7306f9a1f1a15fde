/**
 * Connections to one server. Their number is bounded, and so is each wait for one. The connection used last is used first,
 * so the others become idle.
 */
import type { Connection } from "./connection.ts";

/** No connection became free in time. */
export class PoolBusy extends Error {}

export interface PoolSettings {
  readonly connectionsMax: number;
  /** How long to wait for a connection, opening a new one included. */
  readonly waitMs: number;
  /** An idle connection is closed after this time; undefined keeps it. */
  readonly idleMs: number | undefined;
}

interface Waiter<Member> {
  readonly until: number;
  readonly timer: NodeJS.Timeout;
  resolve(member: Member | Promise<Member>): void;
  reject(reason: Error): void;
}

interface Idle<Member> {
  readonly member: Member;
  readonly timer: NodeJS.Timeout | undefined;
}

export class ConnectionPool<Member extends Connection> {
  readonly #settings: PoolSettings;
  readonly #open: (withinMs: number) => Promise<Member>;
  /** The connection used last is the last element. */
  readonly #idle: Idle<Member>[] = [];
  readonly #waiters = new Set<Waiter<Member>>();
  /** Open, being opened, or told to close. */
  #total = 0;
  #closing: PromiseWithResolvers<void> | undefined;

  /** `open` gives a connection that is ready for use, or throws, within the given time. */
  constructor(settings: PoolSettings, open: (withinMs: number) => Promise<Member>) {
    this.#settings = settings;
    this.#open = open;
  }

  get busy(): number {
    return this.#total - this.#idle.length;
  }
  get idle(): number {
    return this.#idle.length;
  }
  get waiting(): number {
    return this.#waiters.size;
  }

  /** A connection for the caller alone. Throws PoolBusy, or the error of `open`. */
  async take(): Promise<Member> {
    if (this.#closing !== undefined) throw new Error("the pool is closed");
    const { connectionsMax, waitMs } = this.#settings;
    const free = this.#takeIdle();
    if (free !== undefined) return free;
    if (this.#total < connectionsMax) return this.#add(waitMs);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiters.delete(waiter);
        reject(new PoolBusy(`all ${connectionsMax} connections stayed in use for ${waitMs} ms`));
      }, waitMs);
      const waiter: Waiter<Member> = { until: performance.now() + waitMs, timer, resolve, reject };
      this.#waiters.add(waiter);
    });
  }

  /** Gives back a connection from `take`. A closed one makes room for a new one. */
  giveBack(member: Member): void {
    if (member.isClosed) return this.#remove();
    if (this.#closing !== undefined) return this.#discard(member);
    const waiter = this.#nextWaiter();
    if (waiter === undefined) this.#keep(member);
    else waiter.resolve(member);
  }

  /** Refuses all who wait, and closes each connection when it is idle. Resolves when all have closed. */
  async close(): Promise<void> {
    if (this.#closing === undefined) {
      this.#closing = Promise.withResolvers();
      for (let waiter = this.#nextWaiter(); waiter !== undefined; waiter = this.#nextWaiter())
        waiter.reject(new Error("the pool is closed"));
      for (let free = this.#takeIdle(); free !== undefined; free = this.#takeIdle()) this.#discard(free);
      if (this.#total === 0) this.#closing.resolve();
    }
    await this.#closing.promise;
  }

  async #add(withinMs: number): Promise<Member> {
    this.#total += 1;
    try {
      return await this.#open(withinMs);
    } catch (error) {
      this.#remove();
      throw error;
    }
  }

  #keep(member: Member): void {
    const { idleMs } = this.#settings;
    const leave = (): boolean => {
      clearTimeout(timer);
      const index = this.#idle.findIndex((idle) => idle.member === member);
      return index >= 0 && this.#idle.splice(index, 1).length > 0;
    };
    const timer =
      idleMs === undefined ? undefined : setTimeout(() => leave() && this.#discard(member), idleMs);
    this.#idle.push({ member, timer });
    member.onClosed = () => void (leave() && this.#remove());
  }

  #takeIdle(): Member | undefined {
    const idle = this.#idle.pop();
    clearTimeout(idle?.timer);
    return idle?.member;
  }

  #discard(member: Member): void {
    member.onClosed = () => this.#remove();
    member.close();
  }

  /** One connection less, so there is room for another. */
  #remove(): void {
    this.#total -= 1;
    if (this.#closing !== undefined) {
      if (this.#total === 0) this.#closing.resolve();
      return;
    }
    const waiter = this.#nextWaiter();
    if (waiter !== undefined)
      waiter.resolve(this.#add(Math.max(1, Math.round(waiter.until - performance.now()))));
  }

  #nextWaiter(): Waiter<Member> | undefined {
    for (const waiter of this.#waiters) {
      clearTimeout(waiter.timer);
      this.#waiters.delete(waiter);
      return waiter;
    }
    return undefined;
  }
}
