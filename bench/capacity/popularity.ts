/**
 * Which events there are, how much is asked of each, and where they lie: made-up ids go through the product's own hash
 * and are dealt out as a new cluster deals its slots, so that the imbalance of the shards is the real one.
 */
import { type EventId, parseEventId } from "../../shared/domain/ids.ts";
import { invariant } from "../../shared/domain/invariant.ts";
import { SLOT_COUNT, type Slot, slotOf } from "../../shared/domain/slots.ts";
import { seededRandom, zipfWeights } from "../random.ts";

export interface Catalogue {
  /** The slot of each event; the last one is the mega event. */
  readonly slots: readonly Slot[];
  /** How much of the ordinary load each event gets, most popular first: Zipf. They add up to 1; the mega event's is 0. */
  readonly shares: readonly number[];
}

/** The mega event comes on top of `events` ordinary ones. */
export function catalogueOf(options: { events: number; exponent: number; seed: number }): Catalogue {
  const { events, exponent, seed } = options;
  const random = seededRandom(seed);
  const weights = zipfWeights(events, exponent);
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const shares = [...weights.map((weight) => weight / total), 0];
  return { slots: shares.map(() => slotOf(eventIdFrom(random))), shares };
}

/** The number of the shard that a new cluster of so many deals a slot to (migrations/shards.ts). */
export function shardOf(slot: Slot, shards: number): number {
  return Math.floor((slot * shards) / SLOT_COUNT);
}

/** The lane of a node that a slot's commands use (shard-node/decide/lanes.ts). */
export function laneOf(slot: Slot, lanes: number): number {
  return slot % lanes;
}

/** Bookings a second. */
export interface Load {
  readonly hot: number;
  readonly spread: number;
}

/** What each lane of each shard gets when the ordinary events get `spread` bookings a second and the mega event `hot`. */
export function placeLoad(
  { slots, shares }: Catalogue,
  { hot, spread }: Load,
  { shards, lanes }: { shards: number; lanes: number },
): Load[][] {
  const placed = Array.from({ length: shards }, () =>
    Array.from({ length: lanes }, () => ({ hot: 0, spread: 0 })),
  );
  slots.forEach((slot, event) => {
    const lane = placed[shardOf(slot, shards)]?.[laneOf(slot, lanes)];
    invariant(lane !== undefined, "every slot has a lane", { slot, shards, lanes });
    lane.spread += spread * (shares[event] ?? 0);
    if (event === slots.length - 1) lane.hot += hot;
  });
  return placed;
}

/** A UUIDv7 whose time and chance both come from `random`. */
function eventIdFrom(random: () => number): EventId {
  const hex = (digits: number) =>
    Math.floor(random() * 16 ** digits)
      .toString(16)
      .padStart(digits, "0");
  const variant = (8 + Math.floor(random() * 4)).toString(16);
  const id = parseEventId(`019${hex(5)}-${hex(4)}-7${hex(3)}-${variant}${hex(3)}-${hex(6)}${hex(6)}`);
  invariant(id !== undefined, "a made-up id is a UUID", {});
  return id;
}
