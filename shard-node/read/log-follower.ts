/**
 * A follower of the log inside the nodes of a shard. Of all nodes that want to do its work, one does it: the one that holds its place
 * in the shard's database (migrations/shard/0015_log-places.sql). What is done twice, because a node died or was paused, must do
 * no harm.
 */
import { randomUUID } from "node:crypto";
import type { Change } from "../../shared/domain/changes.ts";
import type { Log } from "../../shared/process/log.ts";
import { Outage } from "../../shared/process/outage.ts";
import { repeat, type Repeated } from "../../shared/process/repeat.ts";
import type { BookingStore } from "../store/booking-store.ts";
import type { Place } from "../store/change-log.ts";
import type { Followers } from "./followers.ts";

/** Another node takes over when the holder has not renewed its place for so long. */
const HELD_SECONDS = 5;
/** How often a place is renewed and its position kept. As much is done again when the node dies. */
const RENEW_MS = 1_000;
/** How long one look at the log waits for a change. */
const LOOK_MS = 1_000;

export interface Work {
  /** The follower's name. */
  readonly follower: string;
  /** Whether the work can be done here now. While it cannot, another node may have the place. */
  isReady(): boolean;
  /**
   * Does the work for these changes, in order, and says whether all of it is done. Tries again what fails, until `signal` is
   * aborted. Never throws.
   */
  run(changes: readonly Change[], signal: AbortSignal): Promise<boolean>;
}

export interface LogFollowerParts {
  readonly store: Pick<BookingStore, "holdPlace">;
  readonly followers: Pick<Followers, "follow" | "heard">;
  /** Changes were dropped before this follower had them. */
  readonly skipped: () => void;
  readonly log: Log;
}

export class LogFollower {
  readonly #work: Work;
  readonly #parts: LogFollowerParts;
  readonly #holder = randomUUID();
  readonly #stopping = new AbortController();
  readonly #outage: Outage;
  #running: Repeated | undefined;
  /** Everything up to here is done, as far as this node knows. */
  #position: number | undefined;
  #lagSeconds = 0;

  constructor(work: Work, parts: LogFollowerParts) {
    this.#work = work;
    this.#parts = parts;
    this.#outage = new Outage(parts.log, `the log for the ${work.follower}`);
  }

  /** Age of the oldest change for which the work is not done, by any node. */
  get lagSeconds(): number {
    return this.#lagSeconds;
  }

  start(): void {
    this.#running = repeat(
      async () => this.#turn(),
      RENEW_MS,
      (error) => this.#outage.failed(error),
    );
  }

  /** Leaves the place to another node. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running?.stop();
  }

  /** Does the work for as long as this node has the place. Throws DatabaseError. */
  async #turn(): Promise<void> {
    const place = await this.#hold();
    if (!place.held) return;
    let { position } = place;
    this.#position = position;
    const lost = new AbortController();
    const renewing = repeat(
      async () => {
        const renewed = await this.#hold();
        if (renewed.skipped || !renewed.held) lost.abort();
      },
      RENEW_MS,
      () => lost.abort(),
    );
    try {
      const signal = AbortSignal.any([lost.signal, this.#stopping.signal]);
      while (!signal.aborted) {
        const { follower } = this.#work;
        const asked = { follower, after: position, waitMs: LOOK_MS };
        const answer = await this.#parts.followers.follow(asked, true);
        // Of a position that was dropped, the next turn makes one that is kept.
        if (answer.outcome !== "changes" || signal.aborted) break;
        const { changes } = answer;
        if (changes.length > 0 && !(await this.#work.run(changes, signal))) break;
        this.#position = position = answer.position;
      }
    } finally {
      await renewing.stop();
      await this.#hold(0);
    }
  }

  async #hold(seconds = this.#secondsToHold): Promise<Place> {
    const { store, followers, skipped, log } = this.#parts;
    const { follower } = this.#work;
    const place = await store.holdPlace(follower, this.#holder, seconds, this.#position);
    this.#outage.worked();
    this.#lagSeconds = place.lagSeconds;
    followers.heard(follower, place.lagSeconds);
    if (place.skipped) {
      log.error({ follower, position: place.position }, "changes were dropped before they were followed");
      skipped();
    }
    // Another node may have got further, and what was skipped is behind.
    if (!place.held || place.skipped) this.#position = undefined;
    return place;
  }

  get #secondsToHold(): number {
    return this.#work.isReady() && !this.#stopping.signal.aborted ? HELD_SECONDS : 0;
  }
}
