/**
 * Which slot an event belongs to. The hash is frozen for ever (R1): moving events edits the shard map, never the hash.
 * `hash % shards` instead would move 89 % of all events when an eight-shard cluster gets its ninth.
 */
import murmurhash from "murmurhash";
import type { EventId, Slot } from "./ids.ts";

export type { Slot };

/** Also the number of values of the 12 bits of a booking id that carry the slot. */
export const SLOT_COUNT = 4096;

/** An id, while it is hashed. The library would encode each into a buffer of its own, which takes longer than the hash. */
const ID_BYTES = new Uint8Array(36);

/** The slot of an event, from the canonical form of its id. MurmurHash3 x86 32 bit, seed 0, ASCII. */
export function slotOf(eventId: EventId): Slot {
  for (let index = 0; index < ID_BYTES.length; index += 1) ID_BYTES[index] = eventId.charCodeAt(index);
  return (murmurhash.v3(ID_BYTES, 0) % SLOT_COUNT) as Slot;
}

export function isSlot(value: unknown): value is Slot {
  return Number.isInteger(value) && Number(value) >= 0 && Number(value) < SLOT_COUNT;
}
