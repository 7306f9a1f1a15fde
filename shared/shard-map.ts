/**
 * Which shard owns a slot, and which nodes serve the shard. The catalog holds the map, nodes hand it to routers, and
 * everybody keeps it in memory. A map in use is total (R2): every slot has exactly one owner.
 */
import { z } from "zod";
import { urlOf } from "./config.ts";
import { parseShardId, type ShardId } from "./ids.ts";
import { invariant } from "./invariant.ts";
import { isSlot, SLOT_COUNT, type Slot } from "./slots.ts";

export const shardIdSchema = z.string({ error: "is required" }).transform((text, context): ShardId => {
  const id = parseShardId(text);
  if (id !== undefined) return id;
  context.addIssue({ code: "custom", message: "must be 1 to 32 of a-z, 0-9 and -" });
  return z.NEVER;
});

const httpUrl = urlOf("http", "https");

/** The map as it travels: slots as inclusive ranges, since neighbours mostly share an owner. */
export const wireShardMapSchema = z.object({
  version: z.number().int().nonnegative(),
  shards: z.array(
    z.object({
      id: shardIdSchema,
      /** An address that is none serves nobody, and must not spoil the map for all others. */
      nodeUrls: z.array(z.string()).transform((urls) => urls.filter((url) => httpUrl.safeParse(url).success)),
      slotRanges: z.array(z.tuple([z.number().int(), z.number().int()])),
    }),
  ),
});
export type WireShardMap = z.infer<typeof wireShardMapSchema>;

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

/** The map that a node sent, or undefined when it leaves a slot without an owner or gives it two. */
export function readShardMap(wire: WireShardMap): ShardMap | undefined {
  const owners: ShardId[] = [];
  let owned = 0;
  for (const shard of wire.shards) {
    for (const [first, last] of shard.slotRanges) {
      if (!isSlot(first) || !isSlot(last)) return undefined;
      for (let slot = first as number; slot <= last; slot += 1) {
        if (owners[slot] !== undefined) return undefined;
        owners[slot] = shard.id;
        owned += 1;
      }
    }
  }
  if (owned !== SLOT_COUNT) return undefined;
  return {
    version: wire.version,
    owners,
    owning: new Set(owners),
    nodeUrls: new Map(wire.shards.map((s) => [s.id, s.nodeUrls])),
  };
}

/** Sorted slots as inclusive ranges. */
export function rangesOf(slots: readonly number[]): [number, number][] {
  const ranges: [number, number][] = [];
  for (const slot of slots) {
    const current = ranges.at(-1);
    if (current !== undefined && current[1] === slot - 1) current[1] = slot;
    else ranges.push([slot, slot]);
  }
  return ranges;
}
