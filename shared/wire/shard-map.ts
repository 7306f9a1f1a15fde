/** The wire form of the shard map, which travels from the catalog over nodes to routers. */
import { z } from "zod";
import { checkedId, parseShardId, type ShardId } from "../domain/ids.ts";
import type { ShardMap } from "../domain/shard-map.ts";
import { isSlot, SLOT_COUNT } from "../domain/slots.ts";
import { urlOf } from "../process/config.ts";

export const shardIdSchema = checkedId(parseShardId, "must be 1 to 32 of a-z, 0-9 and -");
const httpUrl = urlOf("http", "https");

/** Slots travel as inclusive ranges, because neighbours mostly share an owner. */
export const wireShardMapSchema = z.object({
  version: z.number().int().nonnegative(),
  shards: z.array(
    z.object({
      id: shardIdSchema,
      /** Without malformed addresses: one of them must not make the map useless for all shards. */
      nodeUrls: z.array(z.string()).transform((urls) => urls.filter((url) => httpUrl.safeParse(url).success)),
      slotRanges: z.array(z.tuple([z.number().int(), z.number().int()])),
    }),
  ),
});
export type WireShardMap = z.infer<typeof wireShardMapSchema>;

/** Returns undefined when a slot has no owner or two. */
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
    nodeUrls: new Map(wire.shards.map((shard) => [shard.id, shard.nodeUrls])),
  };
}

/** `slots` are sorted. */
export function rangesOf(slots: readonly number[]): [number, number][] {
  const ranges: [number, number][] = [];
  for (const slot of slots) {
    const current = ranges.at(-1);
    if (current !== undefined && current[1] === slot - 1) current[1] = slot;
    else ranges.push([slot, slot]);
  }
  return ranges;
}
