/** The map of slots to shards, and of shards to their nodes. Every slot has exactly one owner (R2). */
import type { ShardId } from "./ids.ts";
import { invariant } from "./invariant.ts";
import type { Slot } from "./slots.ts";

export interface ShardMap {
  /** Rises with every change of an owner. */
  readonly version: number;
  /** `owners[slot]` */
  readonly owners: readonly ShardId[];
  /** The shards that own a slot. A new shard owns none, and may have no node yet. */
  readonly owning: ReadonlySet<ShardId>;
  /** The base URLs of each shard's nodes, the preferred one first. */
  readonly nodeUrls: ReadonlyMap<ShardId, readonly string[]>;
}

export function ownerOf(map: ShardMap, slot: Slot): ShardId {
  const owner = map.owners[slot];
  invariant(owner !== undefined, "every slot has an owner", { slot, version: map.version });
  return owner;
}
