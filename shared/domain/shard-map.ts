/** Which shard owns a slot, and which nodes serve the shard. A map in use is total (R2): every slot has exactly one owner. */
import type { ShardId } from "./ids.ts";
import { invariant } from "./invariant.ts";
import type { Slot } from "./slots.ts";

export interface ShardMap {
  /** Rises with every change of an owner. */
  readonly version: number;
  /** `owners[slot]` */
  readonly owners: readonly ShardId[];
  /** The shards that own a slot; one that was just added owns none and may have no node yet. */
  readonly owning: ReadonlySet<ShardId>;
  /** The base URLs of the nodes of each shard, the preferred one first. */
  readonly nodeUrls: ReadonlyMap<ShardId, readonly string[]>;
}

/** Every slot has exactly one owner, at every version of the map (R2). */
export function ownerOf(map: ShardMap, slot: Slot): ShardId {
  const owner = map.owners[slot];
  invariant(owner !== undefined, "every slot has an owner", { slot, version: map.version });
  return owner;
}
