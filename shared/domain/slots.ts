/**
 * The slot of an event. The hash never changes (R1): to move events, an operator changes the shard map. With `hash % shards`,
 * a ninth shard would move 89 % of all events.
 */
import { randomInt } from "node:crypto";
import murmurhash from "murmurhash";
import { type EventId, type IdempotencyKey, newEventId, type Slot, type UserId } from "./ids.ts";

export type { Slot };

/** 2^12: a booking id carries the slot in 12 bits (ids.ts). */
export const SLOT_COUNT = 4096;

/** Reused for every hash. The library would make a buffer for each id, which takes longer than the hash. */
const ID_BYTES = new Uint8Array(36);

/** The hexadecimal digits that a search for an id changes: a million ids, so that one of the slot is among them. */
const LAST_DIGITS = 5;
const HEX = "0123456789abcdef";

/** MurmurHash3 (x86, 32 bit, seed 0) of the canonical id in ASCII. */
export function slotOf(eventId: EventId): Slot {
  write(eventId);
  return slotOfWritten();
}

/**
 * A new event id in the slot of an organizer's key. Every try under the key meets the same shard, whose database decides
 * whether its event exists (B12), and the id still sorts by its time. This tries 4,096 ids on average, in about 0.5 ms.
 */
export function newEventIdFor(organizer: UserId, key: IdempotencyKey, nowMs: number): EventId {
  const slot = murmurhash.v3(`${organizer} ${key}`, 0) % SLOT_COUNT;
  write(newEventId(nowMs));
  for (let tried = randomInt(16 ** LAST_DIGITS); ; tried += 1) {
    for (let digit = 0; digit < LAST_DIGITS; digit += 1)
      ID_BYTES[ID_BYTES.length - 1 - digit] = HEX.charCodeAt((tried >> (4 * digit)) & 15);
    if (slotOfWritten() === slot) return String.fromCharCode(...ID_BYTES) as EventId;
  }
}

export function isSlot(value: unknown): value is Slot {
  return Number.isInteger(value) && Number(value) >= 0 && Number(value) < SLOT_COUNT;
}

function write(eventId: EventId): void {
  for (let index = 0; index < ID_BYTES.length; index += 1) ID_BYTES[index] = eventId.charCodeAt(index);
}

function slotOfWritten(): Slot {
  return (murmurhash.v3(ID_BYTES, 0) % SLOT_COUNT) as Slot;
}
