/**
 * Snapshots of events: in the router's memory, behind it Redis, behind that the shards. Nearly every request of a rush is a
 * read or a refusal, and memory must answer it.
 *
 * - Only a newer version replaces a snapshot (C2), whichever way it comes.
 * - Memory answers reads for less than a second after a source was asked (C3). It says "sold out" for a quarter of a second,
 *   and only when the shard itself said so (C5).
 * - However many requests wait for one event, one load is under way (C6).
 * - A replica may answer a load only when it has all that this router knows of the event. Its answer is as old as the replica
 *   (P2).
 */
import { LRUCache } from "lru-cache";
import type { Event, Snapshot } from "../../shared/domain/events.ts";
import type { EventId } from "../../shared/domain/ids.ts";
import type { Failure } from "../../shared/domain/outcomes.ts";
import type { Clock } from "../../shared/process/clock.ts";
import type { SnapshotStore } from "../../shared/redis/redis.ts";
import type { Span } from "../../shared/watch/tracing.ts";
import type { ReadResult } from "../../shared/wire/rpc.ts";
import { CachedEvent, type Confirmation, NEVER } from "./cached-event.ts";

/** How long memory answers reads. Together with a load this stays below the promised second. */
const READ_FRESH_MS = 800;
const SOLD_OUT_FRESH_MS = 250;
/** From this age on the shard is asked again in the background, so that "sold out" does not lapse in a rush. */
const SOLD_OUT_RENEW_MS = 125;

/** By then an entry that Redis should have replaced has ended by itself (C4); a write under way may take a little longer. */
const REDIS_LAG_MAX_MS = 5_500;

const STALE: Confirmation = { byAnySource: NEVER, byShard: NEVER };

/** A `notBefore` that no replica reaches, so the primary answers. */
export const PRIMARY_ONLY = Number.POSITIVE_INFINITY;

export type CacheTier = "memory" | "redis" | "shard";
export type CachedRead = { readonly outcome: "found"; readonly event: CachedEvent; readonly tier: CacheTier };
export type MissedRead = { readonly outcome: "absent" } | Failure;

export interface EventCacheOptions {
  readonly eventsMax: number;
  readonly clock: Clock;
  readonly redis: Pick<SnapshotStore, "up" | "read" | "fill"> | undefined;
  /** A replica may answer if it has everything that was committed before `notBefore`, by `elapsed()`. */
  readonly loadFromShard: (
    id: EventId,
    notBefore: number,
    span?: Span,
  ) => Promise<ReadResult<Snapshot> | Failure>;
  readonly counted: (tier: CacheTier, result: "hit" | "miss") => void;
}

export class EventCache {
  readonly #options: EventCacheOptions;
  readonly #events: LRUCache<EventId, CachedEvent>;
  readonly #loads = new Map<EventId, Promise<CachedRead | MissedRead>>();
  #forgottenUntil = NEVER;

  constructor(options: EventCacheOptions) {
    this.#options = options;
    this.#events = new LRUCache({
      max: options.eventsMax,
      dispose: ({ learnedAt }, _id, reason) => {
        if (reason === "evict") this.#forgottenUntil = Math.max(this.#forgottenUntil, learnedAt);
      },
    });
  }

  /** By `elapsed()`. Nothing that memory learned later than this was evicted. */
  get forgottenUntil(): number {
    return this.#forgottenUntil;
  }

  /** The newer one of `event` and the version in memory. */
  newest(event: Event): Event {
    const known = this.#events.peek(event.id)?.snapshot.event;
    return known !== undefined && known.version > event.version ? known : event;
  }

  /** The event as memory last knew it, however long ago. */
  known(id: EventId): Event | undefined {
    return this.#events.peek(id)?.snapshot.event;
  }

  /** The event if memory may still answer reads with it. */
  fresh(id: EventId): CachedEvent | undefined {
    const event = this.#events.get(id);
    return event !== undefined && this.#options.clock.elapsed() - event.confirmed.byAnySource < READ_FRESH_MS
      ? event
      : undefined;
  }

  /** Reads from the first tier that can answer; a promise only when memory cannot. `span` is the trace of a new load. */
  read(id: EventId, span?: Span): CachedRead | Promise<CachedRead | MissedRead> {
    const event = this.fresh(id);
    this.#options.counted("memory", event === undefined ? "miss" : "hit");
    if (event !== undefined) return { outcome: "found", event, tier: "memory" };
    return this.#loads.get(id) ?? this.#started(id, this.#load(id, span));
  }

  /** True when the shard said at most 250 ms ago that no ticket is left, and no hold can have ended since. */
  isSoldOut(id: EventId): boolean {
    const cached = this.#events.get(id);
    if (cached === undefined) return false;
    const age = this.#options.clock.elapsed() - cached.confirmed.byShard;
    if (age >= SOLD_OUT_FRESH_MS) return false;
    const { event, nextHoldExpiresAt } = cached.snapshot;
    if (event.availableTickets > 0 || event.status !== "on_sale") return false;
    const now = this.#options.clock.now();
    // Outside the sales window the outcome is another one, and the shard decides it.
    const soldOut =
      (nextHoldExpiresAt === null || now < Date.parse(nextHoldExpiresAt)) &&
      (event.salesStartAt === null || now >= Date.parse(event.salesStartAt)) &&
      (event.salesEndAt === null || now < Date.parse(event.salesEndAt));
    if (soldOut && age >= SOLD_OUT_RENEW_MS) this.#renew(id);
    return soldOut;
  }

  /** Takes snapshots from a shard's answer to a call that was sent at `askedAt`. */
  learn(snapshots: readonly Snapshot[], askedAt: number): void {
    for (const snapshot of snapshots) this.#offer(snapshot, { byAnySource: askedAt, byShard: askedAt });
  }

  /** Takes published snapshots of the events in memory. A message may be late, so it never makes an event fresh. */
  hear(snapshots: readonly Snapshot[]): void {
    for (const snapshot of snapshots) {
      const { id } = snapshot.event;
      if (this.#events.has(id) || this.#loads.has(id)) this.#offer(snapshot, STALE);
    }
  }

  /** Asks the shard while memory still answers. If this fails, later requests go to the shard. */
  #renew(id: EventId): void {
    if (!this.#loads.has(id)) void this.#started(id, this.#loadFromShard(id, PRIMARY_ONLY));
  }

  /** Shares a load with all who ask for the event until it ends. */
  #started(id: EventId, load: Promise<CachedRead | MissedRead>): Promise<CachedRead | MissedRead> {
    const shared = load.finally(() => this.#loads.delete(id));
    this.#loads.set(id, shared);
    return shared;
  }

  async #load(id: EventId, span?: Span): Promise<CachedRead | MissedRead> {
    return (await this.#loadFromRedis(id)) ?? (await this.#loadFromShard(id, this.#knownUntil(id), span));
  }

  async #loadFromRedis(id: EventId): Promise<CachedRead | undefined> {
    const { redis, clock, counted } = this.#options;
    if (redis?.up !== true) return undefined;
    const askedAt = clock.elapsed();
    if (this.#hasForgottenSince(id, askedAt - REDIS_LAG_MAX_MS)) return undefined;
    const read = await redis.read(id).catch(() => undefined);
    const snapshot = this.#hasForgottenSince(id, askedAt - REDIS_LAG_MAX_MS) ? undefined : read;
    const event = snapshot && this.#offer(snapshot, { byAnySource: askedAt, byShard: NEVER });
    // When memory has a newer version, Redis lags and its answer makes nothing fresh.
    const usable = event !== undefined && event.snapshot.event.version === snapshot?.event.version;
    counted("redis", usable ? "hit" : "miss");
    return usable ? { outcome: "found", event, tier: "redis" } : undefined;
  }

  /** Whether memory may have known a version that it learned after `moment`, and let it go: Redis may not have it yet (C1). */
  #hasForgottenSince(id: EventId, moment: number): boolean {
    return !this.#events.has(id) && this.#forgottenUntil > moment;
  }

  /** A replica that is complete up to this moment knows all that this router ever knew of the event. */
  #knownUntil(id: EventId): number {
    return this.#events.peek(id)?.learnedAt ?? this.#forgottenUntil;
  }

  async #loadFromShard(id: EventId, notBefore: number, span?: Span): Promise<CachedRead | MissedRead> {
    const { clock, loadFromShard, counted, redis } = this.#options;
    const askedAt = clock.elapsed();
    const read = await loadFromShard(id, notBefore, span);
    const replicaAsOf =
      read.outcome === "found" && read.ageMs !== undefined ? askedAt - read.ageMs : undefined;
    // During the load memory may have learned a newer version, and even forgotten it again. One more load is enough.
    const mayLack =
      replicaAsOf === undefined
        ? notBefore !== PRIMARY_ONLY && this.#hasForgottenSince(id, askedAt)
        : replicaAsOf < this.#knownUntil(id);
    if (read.outcome === "found" && mayLack) return this.#loadFromShard(id, PRIMARY_ONLY, span);
    counted("shard", read.outcome === "found" ? "hit" : "miss");
    if (read.outcome === "wrong_shard") return { outcome: "shard_unavailable" };
    if (read.outcome !== "found") return read;
    // Fills Redis for the other routers, in the background. Not from a replica: when Redis has just lost a newer version, the
    // replica's older one would stay there for seconds.
    if (redis?.up === true && replicaAsOf === undefined) redis.fill(read.value).catch(() => undefined);
    const confirmed = {
      byAnySource: replicaAsOf ?? askedAt,
      byShard: replicaAsOf === undefined ? askedAt : NEVER,
    };
    return { outcome: "found", event: this.#offer(read.value, confirmed), tier: "shard" };
  }

  /** Keeps the snapshot if it is newer than the one in memory. Returns the newest. */
  #offer(snapshot: Snapshot, confirmed: Confirmation): CachedEvent {
    const { id, version } = snapshot.event;
    const known = this.#events.get(id);
    const now = this.#options.clock.elapsed();
    if (known === undefined) {
      // Who was asked before memory learned what it has forgotten since may not have known that (C1).
      const mayLack = confirmed.byAnySource < this.#forgottenUntil;
      const event = new CachedEvent(snapshot, mayLack ? STALE : confirmed, now);
      this.#events.set(id, event);
      return event;
    }
    const knownVersion = known.snapshot.event.version;
    const newest = version > knownVersion ? new CachedEvent(snapshot, known.confirmed, now) : known;
    // A source that confirmed an older version has nothing newer, so its time holds for the newest version too. A copy in
    // Redis or in a replica that is older than memory lags and confirms nothing.
    if (version >= knownVersion || confirmed.byShard !== NEVER) {
      newest.confirmed = {
        byAnySource: Math.max(known.confirmed.byAnySource, confirmed.byAnySource),
        byShard: Math.max(known.confirmed.byShard, confirmed.byShard),
      };
    }
    if (newest !== known) this.#events.set(id, newest);
    return newest;
  }
}
