/**
 * Those who follow the log of changes. A follower asks for what comes after its position. While there is nothing, its call
 * waits here: until this node has changed something, and a little longer, so that one answer has many changes. What others
 * changed, such as a second node, it finds when it looks again.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Clock } from "../../shared/process/clock.ts";
import {
  ANSWER_BOOKINGS_MAX,
  type ChangesAnswer,
  type ChangesRequest,
  type CopyPage,
  type CopyRequest,
} from "../../shared/wire/rpc.ts";
import type { BookingStore } from "../store/booking-store.ts";

/** Calls of followers that may be open. There are one or two followers, each with one call. */
export const FOLLOWERS_MAX = 8;
/** How often a waiting call looks again by itself. */
const LOOK_AGAIN_MS = 100;
/** A hot event changes hundreds of times a second, and a follower cannot tell. */
const GATHER_MS = 10;
/** A follower that has not asked for so long follows another node, or none. */
const FORGOTTEN_MS = 120_000;

export interface FollowersObserver {
  shed(reason: "followers_full"): void;
  /** An answer with so many bookings. */
  changesGiven(bookings: number): void;
}

interface Follower {
  readonly askedAt: number;
  /** When, by `elapsed()`, the oldest change was made that the follower did not have then. Undefined when it had all. */
  readonly behindSince: number | undefined;
}

export class Followers {
  readonly #store: Pick<BookingStore, "readChanges" | "copy">;
  readonly #clock: Clock;
  readonly #observer: FollowersObserver;
  readonly #followers = new Map<string, Follower>();
  /** Each ends the pause of a waiting call. */
  readonly #waiting = new Set<() => void>();
  #open = 0;
  #closed = false;
  /** Followers read one after the other, so they take one connection at most. */
  #reading: Promise<unknown> = Promise.resolve();

  constructor(store: Pick<BookingStore, "readChanges" | "copy">, clock: Clock, observer: FollowersObserver) {
    this.#store = store;
    this.#clock = clock;
    this.#observer = observer;
  }

  /** Calls that are open. */
  get open(): number {
    return this.#open;
  }

  /** Age of the oldest change that the slowest follower has not asked beyond. */
  get lagSeconds(): number {
    const now = this.#clock.elapsed();
    let since = now;
    for (const [name, { askedAt, behindSince = now }] of this.#followers) {
      if (now - askedAt > FORGOTTEN_MS) this.#followers.delete(name);
      else since = Math.min(since, behindSince);
    }
    return (now - since) / 1000;
  }

  /** Something has changed in the shard. */
  changed(): void {
    for (const wake of this.#waiting) wake();
  }

  /** Lets no call wait any longer. */
  close(): void {
    this.#closed = true;
    this.changed();
  }

  /** `isPlace`: the position is of this database itself (log-follower.ts). Throws DatabaseError. */
  async follow({ follower, after, waitMs }: ChangesRequest, isPlace = false): Promise<ChangesAnswer> {
    if (this.#closed) return { outcome: "shard_unavailable" };
    if (this.#open >= FOLLOWERS_MAX) {
      this.#observer.shed("followers_full");
      return { outcome: "overloaded" };
    }
    this.#open += 1;
    try {
      const until = this.#clock.elapsed() + waitMs;
      for (;;) {
        const read = await this.#inTurn(async () =>
          this.#store.readChanges(after, ANSWER_BOOKINGS_MAX, isPlace),
        );
        if (read.dropped) return { outcome: "position_dropped" };
        const { changes, position, asOf, lagSeconds } = read;
        this.heard(follower, lagSeconds);
        const now = this.#clock.elapsed();
        const isOver = after === null || this.#closed || now >= until;
        if (changes.length > 0 || isOver) {
          this.#observer.changesGiven(changes.reduce((sum, { bookings }) => sum + bookings.length, 0));
          return { outcome: "changes", changes, position, asOf };
        }
        await this.#pause(Math.min(LOOK_AGAIN_MS, until - now));
      }
    } finally {
      this.#open -= 1;
    }
  }

  /** A page of all that the shard has, for a follower that begins. Throws DatabaseError. */
  async copy(request: CopyRequest): Promise<CopyPage> {
    return this.#inTurn(async () => this.#store.copy(request));
  }

  /** A follower, of this node or another, was so far behind just now. */
  heard(name: string, lagSeconds: number): void {
    const now = this.#clock.elapsed();
    this.#remember(name, {
      askedAt: now,
      behindSince: lagSeconds === 0 ? undefined : now - lagSeconds * 1000,
    });
  }

  #remember(name: string, follower: Follower): void {
    this.#followers.delete(name);
    this.#followers.set(name, follower);
    const [oldest] = this.#followers.size > FOLLOWERS_MAX ? this.#followers.keys() : [];
    if (oldest !== undefined) this.#followers.delete(oldest);
  }

  async #inTurn<Read>(read: () => Promise<Read>): Promise<Read> {
    const answer = this.#reading.then(read);
    this.#reading = answer.catch(() => undefined);
    return answer;
  }

  async #pause(ms: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const wake = (): void => resolve(true);
    const timer = setTimeout(() => resolve(false), ms);
    this.#waiting.add(wake);
    const woken = await promise;
    this.#waiting.delete(wake);
    clearTimeout(timer);
    if (woken && !this.#closed) await sleep(GATHER_MS);
  }
}
