/**
 * Event snapshots in the router's memory, in Redis behind it, and at the shards behind that. Nearly every request of a
 * rush is a read or is refused, and must end here.
 *
 * - A snapshot replaces another only when its version is newer (C2), whichever way it came.
 * - Memory answers reads for less than a second after the source was asked (C3), and says "sold out" for a quarter of
 *   that, only on a shard's own word (C5).
 * - However many wait for one event, one load of it is under way (C6).
 * - A replica may answer a load only as of a moment after all that this router knows of the event, and its answer is as old
 *   as that moment (P2).
 */
import { LRUCache } from "lru-cache";
import type { Clock } from "../../shared/process/clock.ts";
import type { EventId } from "../../shared/domain/ids.ts";
import type { SnapshotStore } from "../../shared/redis/redis.ts";
import type { Span } from "../../shared/watch/tracing.ts";
import type { Event, Snapshot } from "../../shared/domain/events.ts";
import type { Failure } from "../../shared/domain/outcomes.ts";
import type { ReadResult } from "../../shared/wire/rpc.ts";

/** How long memory answers reads; with the time of a load it stays under the second that is promised. */
const READ_FRESH_MS = 800;
/** How long "sold out" is said from memory. */
const SOLD_OUT_FRESH_MS = 250;
/** From when on the shard is asked again meanwhile, so that in a rush "sold out" never ends just for want of its word. */
const SOLD_OUT_RENEW_MS = 125;

/** The event as JSON, made once for all who read it, with its length for `content-length`. */
export interface EventBody {
  readonly text: string;
  readonly bytes: string;
}

export interface CachedEvent {
  readonly snapshot: Snapshot;
  readonly etag: string;
  readonly body: EventBody;
}

export type CacheTier = "memory" | "redis" | "shard";
export type CachedRead = { readonly outcome: "found"; readonly event: CachedEvent; readonly tier: CacheTier };
export type MissedRead = { readonly outcome: "absent" } | Failure;

export interface EventCacheOptions {
  readonly eventsMax: number;
  readonly clock: Clock;
  readonly redis: Pick<SnapshotStore, "up" | "read" | "fill"> | undefined;
  /** A replica may answer when it has everything that was committed before `notBefore`, by `elapsed()`. */
  readonly loadFromShard: (
    id: EventId,
    notBefore: number,
    span?: Span,
  ) => Promise<ReadResult<Snapshot> | Failure>;
  readonly counted: (tier: CacheTier, result: "hit" | "miss") => void;
}

/** When, by `elapsed()`, a source was asked that vouches for a version; NEVER for one that may be late. */
interface Vouched {
  readonly byAnySource: number;
  /** By the shard itself, which alone may say "sold out". */
  readonly byShard: number;
}
/** No replica has what is committed later than now. */
export const PRIMARY_ONLY = Number.POSITIVE_INFINITY;
const NEVER: Vouched = { byAnySource: Number.NEGATIVE_INFINITY, byShard: Number.NEGATIVE_INFINITY };

class Entry implements CachedEvent {
  readonly snapshot: Snapshot;
  readonly etag: string;
  /** When this version became known here. */
  readonly learnedAt: number;
  vouched: Vouched;
  #body: EventBody | undefined;

  constructor(snapshot: Snapshot, vouched: Vouched, learnedAt: number) {
    this.snapshot = snapshot;
    this.learnedAt = learnedAt;
    this.etag = `W/"${snapshot.event.version}"`;
    this.vouched = vouched;
  }

  /** Made when it is first read: a hot event changes far more often than it is read here. */
  get body(): EventBody {
    return (this.#body ??= bodyOf(this.snapshot.event));
  }
}

export class EventCache {
  readonly #options: EventCacheOptions;
  readonly #entries: LRUCache<EventId, Entry>;
  readonly #loading = new Map<EventId, Promise<CachedRead | MissedRead>>();
  /** All that was known and is not any more was learned before this moment. */
  #forgottenUntil = Number.NEGATIVE_INFINITY;

  constructor(options: EventCacheOptions) {
    this.#options = options;
    this.#entries = new LRUCache({
      max: options.eventsMax,
      dispose: ({ learnedAt }, _id, reason) => {
        if (reason === "evict") this.#forgottenUntil = Math.max(this.#forgottenUntil, learnedAt);
      },
    });
  }

  /** By `elapsed()`: what was learned later of any event is still in memory. */
  get forgottenUntil(): number {
    return this.#forgottenUntil;
  }

  /** The event as it is known here, where that is newer. */
  newest(event: Event): Event {
    const known = this.#entries.peek(event.id)?.snapshot.event;
    return known !== undefined && known.version > event.version ? known : event;
  }

  /** The event, if memory may still answer for it. Only a canonical id is ever found. */
  fresh(id: EventId): CachedEvent | undefined {
    const entry = this.#entries.get(id);
    return entry !== undefined && this.#options.clock.elapsed() - entry.vouched.byAnySource < READ_FRESH_MS
      ? entry
      : undefined;
  }

  /** The event from the first tier that can answer. A load that others wait for too belongs to who came first. */
  async read(id: EventId, span?: Span): Promise<CachedRead | MissedRead> {
    const event = this.fresh(id);
    this.#options.counted("memory", event === undefined ? "miss" : "hit");
    if (event !== undefined) return { outcome: "found", event, tier: "memory" };
    return this.#loading.get(id) ?? this.#noted(id, this.#load(id, span));
  }

  /** True when no ticket of the event can be had: a shard said so at most 250 ms ago, and no hold has come due since. */
  isSoldOut(id: EventId): boolean {
    const entry = this.#entries.get(id);
    if (entry === undefined) return false;
    const age = this.#options.clock.elapsed() - entry.vouched.byShard;
    if (age >= SOLD_OUT_FRESH_MS) return false;
    const { event, nextHoldExpiresAt } = entry.snapshot;
    if (event.availableTickets > 0 || event.status !== "on_sale") return false;
    const now = this.#options.clock.now();
    // Outside the sales window the answer is another one, and it is the shard's to give.
    const soldOut =
      (nextHoldExpiresAt === null || now < Date.parse(nextHoldExpiresAt)) &&
      (event.salesStartAt === null || now >= Date.parse(event.salesStartAt)) &&
      (event.salesEndAt === null || now < Date.parse(event.salesEndAt));
    if (soldOut && age >= SOLD_OUT_RENEW_MS) this.#renew(id);
    return soldOut;
  }

  /** Takes in what a shard said in an answer that was asked for at `askedAt`. */
  learn(snapshots: readonly Snapshot[], askedAt: number): void {
    for (const snapshot of snapshots) this.#offer(snapshot, { byAnySource: askedAt, byShard: askedAt });
  }

  /** Takes in what was published, for the events that matter here; it may be late, so it makes nothing fresh. */
  hear(snapshots: readonly Snapshot[]): void {
    for (const snapshot of snapshots) {
      const { id } = snapshot.event;
      if (this.#entries.has(id) || this.#loading.has(id)) this.#offer(snapshot, NEVER);
    }
  }

  /** Asks the shard while memory still answers. Nobody waits for it: when it fails, the next to ask go to the shard. */
  #renew(id: EventId): void {
    if (!this.#loading.has(id)) void this.#noted(id, this.#loadFromShard(id, PRIMARY_ONLY));
  }

  /** Notes a load for as long as it is under way. */
  async #noted(id: EventId, load: Promise<CachedRead | MissedRead>): Promise<CachedRead | MissedRead> {
    const noted = load.finally(() => this.#loading.delete(id));
    this.#loading.set(id, noted);
    return noted;
  }

  async #load(id: EventId, span?: Span): Promise<CachedRead | MissedRead> {
    return (await this.#loadFromRedis(id)) ?? (await this.#loadFromShard(id, this.#knownUntil(id), span));
  }

  async #loadFromRedis(id: EventId): Promise<CachedRead | undefined> {
    const { redis, clock, counted } = this.#options;
    if (redis?.up !== true) return undefined;
    const askedAt = clock.elapsed();
    const snapshot = await redis.read(id).catch(() => undefined);
    const entry = snapshot && this.#offer(snapshot, { ...NEVER, byAnySource: askedAt });
    // Memory may know a newer version than Redis; then Redis is behind and vouches for nothing.
    const usable = entry !== undefined && entry.snapshot.event.version === snapshot?.event.version;
    counted("redis", usable ? "hit" : "miss");
    return usable ? { outcome: "found", event: entry, tier: "redis" } : undefined;
  }

  /** A replica that has all that was committed before this moment is not behind what was ever known here of the event. */
  #knownUntil(id: EventId): number {
    return this.#entries.peek(id)?.learnedAt ?? this.#forgottenUntil;
  }

  async #loadFromShard(id: EventId, notBefore: number, span?: Span): Promise<CachedRead | MissedRead> {
    const { clock, loadFromShard, counted, redis } = this.#options;
    const askedAt = clock.elapsed();
    const read = await loadFromShard(id, notBefore, span);
    // Meanwhile something newer may have been learned, and let go again.
    const isReplicas = read.outcome === "found" && read.ageMs !== undefined;
    if (isReplicas && askedAt - read.ageMs < this.#knownUntil(id))
      return this.#loadFromShard(id, PRIMARY_ONLY, span);
    counted("shard", read.outcome === "found" ? "hit" : "miss");
    if (read.outcome === "found") {
      // For the other routers. Nobody waits for it, and it can only be refused, never replace a newer version. A replica's
      // word would be kept for seconds more, when Redis has just lost the newer one.
      if (redis?.up === true && read.ageMs === undefined) redis.fill(read.value).catch(() => undefined);
      const vouched =
        read.ageMs === undefined
          ? { byAnySource: askedAt, byShard: askedAt }
          : { ...NEVER, byAnySource: askedAt - read.ageMs };
      const event = this.#offer(read.value, vouched);
      return { outcome: "found", event, tier: "shard" };
    }
    return read.outcome === "wrong_shard" ? { outcome: "shard_unavailable" } : read;
  }

  /** The entry after this snapshot was offered: its own, or the newer one that it could not replace. */
  #offer(snapshot: Snapshot, vouched: Vouched): Entry {
    const { id, version } = snapshot.event;
    const known = this.#entries.get(id);
    if (known === undefined) {
      const entry = new Entry(snapshot, vouched, this.#options.clock.elapsed());
      this.#entries.set(id, entry);
      return entry;
    }
    const newest =
      version > known.snapshot.event.version
        ? new Entry(snapshot, known.vouched, this.#options.clock.elapsed())
        : known;
    // Who vouched for a version vouches for every newer one too: what it saw was no newer. But a copy in Redis or in a
    // replica that is older than what is known here is out of date and vouches for nothing.
    if (version >= known.snapshot.event.version || vouched.byShard !== NEVER.byShard) {
      newest.vouched = {
        byAnySource: Math.max(known.vouched.byAnySource, vouched.byAnySource),
        byShard: Math.max(known.vouched.byShard, vouched.byShard),
      };
    }
    if (newest !== known) this.#entries.set(id, newest);
    return newest;
  }
}

function bodyOf(event: Event): EventBody {
  const text = JSON.stringify(event);
  return { text, bytes: String(Buffer.byteLength(text)) };
}
