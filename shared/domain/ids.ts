/**
 * The ids of the domain. Each is a branded string made by one parser here, which also makes it canonical: the same UUID
 * in upper case would otherwise hash to another slot (R1). A booking id is a UUIDv7 whose 12 `rand_a` bits carry the
 * slot of its event (4096 = 2^12), so that a booking id alone finds its shard and stays a valid UUIDv7 (RFC 9562 §5.7).
 */
import { randomBytes, randomUUID } from "node:crypto";
import { z } from "zod";

declare const brand: unique symbol;
type Branded<Name extends string> = string & { readonly [brand]: Name };

export type EventId = Branded<"EventId">;
export type BookingId = Branded<"BookingId">;
/** The `sub` of a token: 1 to 64 printable characters. */
export type UserId = Branded<"UserId">;
export type ShardId = Branded<"ShardId">;
/** A whole number below SLOT_COUNT (slots.ts). */
export type Slot = number & { readonly [brand]: "Slot" };
export type IdempotencyKey = Branded<"IdempotencyKey">;

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const PRINTABLE = /^[^\p{Cc}\p{Cs}]{1,64}$/u;
const KEY = /^[\x21-\x7e][\x20-\x7e]{0,127}$/;
const SHARD = /^[a-z0-9][a-z0-9-]{0,31}$/;

/**
 * The schema of an id in an answer. The id came out of a database, so its form is not checked again: that would cost more
 * than everything else in the answer.
 */
export const idOf = <Id extends string>() => z.string() as unknown as z.ZodType<Id, Id>;

/** `text` when it is a UUID in canonical form already. */
export function parseCanonicalUuid(text: string): string | undefined {
  return UUID.test(text) ? text : undefined;
}

/** The canonical (lower case) event id, or undefined when `text` is no UUID. */
export function parseEventId(text: string): EventId | undefined {
  return canonicalUuid(text) as EventId | undefined;
}

/** The canonical (lower case) booking id, or undefined when `text` is no UUID. */
export function parseBookingId(text: string): BookingId | undefined {
  return canonicalUuid(text) as BookingId | undefined;
}

/** A user id: 1 to 64 characters, none of them a control character (PostgreSQL stores no NUL). */
export function parseUserId(text: unknown): UserId | undefined {
  return typeof text === "string" && PRINTABLE.test(text) ? (text as UserId) : undefined;
}

/** An idempotency key: 1 to 128 visible ASCII characters, spaces inside allowed. */
export function parseIdempotencyKey(text: string): IdempotencyKey | undefined {
  return KEY.test(text) ? (text as IdempotencyKey) : undefined;
}

/** A shard id: 1 to 32 of `a-z`, `0-9` and `-`; it is also a metric label. */
export function parseShardId(text: string): ShardId | undefined {
  return SHARD.test(text) ? (text as ShardId) : undefined;
}

/** A new event id; ids order by creation time, so a list by id is a list by age. */
export function newEventId(nowMs: number): EventId {
  return uuidV7(nowMs, randomBytes(2).readUInt16BE() & 0xfff) as EventId;
}

/** A new booking id for an event in `slot`. */
export function newBookingId(slot: Slot, nowMs: number): BookingId {
  return uuidV7(nowMs, slot) as BookingId;
}

/** A key for a request that came without one, so that the router's own retries are safe too. */
export function newIdempotencyKey(): IdempotencyKey {
  return randomUUID() as string as IdempotencyKey;
}

/** The slot that a booking id carries. */
export function slotOfBooking(id: BookingId): Slot {
  return Number.parseInt(id.slice(15, 18), 16) as Slot;
}

/** When a UUIDv7 was made, in milliseconds since the epoch. */
export function timeOf(id: EventId): number {
  return Number.parseInt(id.slice(0, 8) + id.slice(9, 13), 16);
}

function canonicalUuid(text: string): string | undefined {
  return parseCanonicalUuid(text) ?? parseCanonicalUuid(text.toLowerCase());
}

function uuidV7(unixMs: number, randA: number): string {
  const time = unixMs.toString(16).padStart(12, "0");
  const variantAndRandB = randomUUID().slice(19);
  return `${time.slice(0, 8)}-${time.slice(8)}-7${randA.toString(16).padStart(3, "0")}-${variantAndRandB}`;
}
