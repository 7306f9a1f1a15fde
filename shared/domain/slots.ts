/**
 * The slot of an event. The hash never changes (R1): to move events, an operator changes the shard map. With `hash % shards`,
 * a ninth shard would move 89 % of all events.
 */
import murmurhash from "murmurhash";
import type { EventId, Slot } from "./ids.ts";

export type { Slot };

/** 2^12: a booking id carries the slot in 12 bits (ids.ts). */
export const SLOT_COUNT = 4096;

/** Reused for every hash. The library would make a buffer for each id, which takes longer than the hash. */
const ID_BYTES = new Uint8Array(36);

/** MurmurHash3 (x86, 32 bit, seed 0) of the canonical id in ASCII. */
export function slotOf(eventId: EventId): Slot {
  for (let index = 0; index < ID_BYTES.length; index += 1) ID_BYTES[index] = eventId.charCodeAt(index);
  return (murmurhash.v3(ID_BYTES, 0) % SLOT_COUNT) as Slot;
}

export function isSlot(value: unknown): value is Slot {
  return Number.isInteger(value) && Number(value) >= 0 && Number(value) < SLOT_COUNT;
}
