/** What stands beside the shards: the catalog and Redis, as the product's own clients of them see it. */
import { DatabaseError } from "../../shared/database/faults.ts";
import type { Statement } from "../../shared/database/database.ts";
import type { Snapshot } from "../../shared/domain/events.ts";
import type { EventId, ShardId, Slot } from "../../shared/domain/ids.ts";
import { type Process, self, world } from "./world.ts";

const NODE_FORGOTTEN_MS = 15_000;
const ENTRY_TTL_MS = 5_000;
const REDIS_TIMEOUT_MS = 200;
const REDIS_REST_MS = 1_000;

/** Answers the statements of shard-node/catalog.ts. */
export class SimulatedCatalog {
  readonly #shards: readonly ShardId[];
  readonly owners: ShardId[];
  readonly #nodes = new Map<string, { readonly shard: ShardId; seenAt: number }>();
  #slots: Map<ShardId, number[]> | undefined;
  version = 1;
  down = false;

  constructor(shards: readonly ShardId[], owners: ShardId[]) {
    this.#shards = shards;
    this.owners = owners;
  }

  give(slots: readonly Slot[], to: ShardId): void {
    for (const slot of slots) this.owners[slot] = to;
    this.#slots = undefined;
    this.version += 1;
  }

  async query({ name }: Statement, values: readonly unknown[] = []): Promise<unknown[]> {
    await world().sleep(world().between(0.2, 2));
    if (this.down) throw new DatabaseError("unreachable", "the catalog is away");
    const [url, shard] = values as [string, ShardId];
    if (name === "announce-node") this.#nodes.set(url, { shard, seenAt: world().now });
    if (name === "withdraw-node") this.#nodes.delete(url);
    if (name !== "read-map") return [];
    this.#slots ??= this.#slotsOfShards();
    const shards = this.#shards.map((id) => ({
      id,
      slots: this.#slots?.get(id) ?? [],
      nodeUrls: this.#urlsOf(id),
    }));
    return [{ version: this.version, timeline: 1, shards }];
  }

  #slotsOfShards(): Map<ShardId, number[]> {
    const slots = new Map(this.#shards.map((id): [ShardId, number[]] => [id, []]));
    for (const [slot, owner] of this.owners.entries()) slots.get(owner)?.push(slot);
    return slots;
  }

  #urlsOf(id: ShardId): string[] {
    const since = world().now - NODE_FORGOTTEN_MS;
    return [...this.#nodes]
      .filter(([, { shard, seenAt }]) => shard === id && seenAt > since)
      .map(([url]) => url);
  }
}

/** Redis: entries that end by themselves, set only when newer, and published in the same step. */
export class SimulatedRedis {
  readonly #entries = new Map<EventId, { readonly snapshot: Snapshot; readonly ends: number }>();
  readonly #feeds = new Map<Process, (snapshots: readonly Snapshot[]) => void>();
  down = false;
  /** Accepts, and does not answer. */
  hangs = false;
  /** Processes that do not reach it. */
  readonly cutOff = new Set<string>();

  subscribe(router: Process, hear: (snapshots: readonly Snapshot[]) => void): void {
    this.#feeds.set(router, hear);
  }

  /** Everything that it held is gone. */
  flush(): void {
    this.#entries.clear();
  }

  reaches(process: Process): boolean {
    return !this.down && !this.cutOff.has(process.name);
  }

  read(id: EventId): Snapshot | undefined {
    const entry = this.#entries.get(id);
    return entry !== undefined && entry.ends > world().now ? entry.snapshot : undefined;
  }

  set(snapshots: readonly Snapshot[], telling: boolean): void {
    const newest = snapshots.filter((snapshot) => {
      const { id, version } = snapshot.event;
      const known = this.read(id)?.event.version ?? -1;
      if (version >= known) {
        const kept = version > known ? snapshot : (this.read(id) as Snapshot);
        this.#entries.set(id, { snapshot: kept, ends: world().now + ENTRY_TTL_MS });
      }
      return version > known;
    });
    if (!telling || newest.length === 0) return;
    for (const [router, hear] of this.#feeds)
      if (this.reaches(router))
        world().after(world().between(0.2, 5), () => hear(structuredClone(newest)), router);
  }
}

/** One process's connection, in place of its SnapshotStore. It rests for a moment after a failure. */
export class SimulatedSnapshots {
  readonly #redis: SimulatedRedis;
  readonly #process = self();
  #restsUntil = 0;

  constructor(redis: SimulatedRedis) {
    this.#redis = redis;
  }

  get up(): boolean {
    return this.#redis.reaches(this.#process) && world().now >= this.#restsUntil;
  }

  async read(id: EventId): Promise<Snapshot | undefined> {
    return this.#asked(() => structuredClone(this.#redis.read(id)));
  }

  async fill(snapshot: Snapshot): Promise<void> {
    await this.#asked(() => this.#redis.set([snapshot], false));
  }

  async publish(snapshots: readonly Snapshot[]): Promise<void> {
    await this.#asked(() => this.#redis.set(snapshots, true));
  }

  async #asked<T>(what: () => T): Promise<T> {
    const { hangs } = this.#redis;
    await world().sleep(hangs ? REDIS_TIMEOUT_MS : world().between(0.1, 1));
    if (hangs || !this.#redis.reaches(this.#process)) {
      this.#restsUntil = world().now + REDIS_REST_MS;
      throw new Error("Redis does not answer");
    }
    const result = what();
    await world().sleep(world().between(0.1, 1));
    return result;
  }
}
