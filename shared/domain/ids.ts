/**
 * The ids of the domain. Each is a branded string with one parser, which also makes it canonical: a UUID in upper case would
 * hash to another slot (R1). A booking id is a valid UUIDv7 (RFC 9562 §5.7) whose 12 `rand_a` bits carry the slot of its
 * event (4096 = 2^12), so a booking id alone leads to its shard.
 */
import { randomBytes, randomUUID } from "node:crypto";
import { z } from "zod";

declare const brand: unique symbol;
type Branded<Name extends string> = string & { readonly [brand]: Name };

export type EventId = Branded<"EventId">;
export type BookingId = Branded<"BookingId">;
/** The `sub` of a token, as `parseUserId` makes it. */
export type UserId = Branded<"UserId">;
export type ShardId = Branded<"ShardId">;
/** A whole number below SLOT_COUNT (slots.ts). */
export type Slot = number & { readonly [brand]: "Slot" };
export type IdempotencyKey = Branded<"IdempotencyKey">;

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const UUID_CHARACTERS = 36;
/** Nearly every user id. What is ASCII is in NFC. */
const PLAIN_USER = /^[!-~](?:[ -~]{0,253}[!-~])?$/;
/**
 * No control, format, private or unassigned character, no space but the plain one, and none outside; no letter or mark that
 * shows nothing, such as a filler of Hangul or a variation selector.
 */
const USER = /^(?! )(?:[^\p{C}\p{Z}\p{Default_Ignorable_Code_Point}\u2800]| ){1,255}(?<! )$/u;
/** 255 characters of two units each, of which normalising makes one of at most four (Unicode Standard Annex 15 §11). */
const USER_UNITS_MAX = 2 * 4 * 255;
const KEY = /^[\x21-\x7e][\x20-\x7e]{0,127}$/;
const SHARD = /^[a-z0-9][a-z0-9-]{0,31}$/;

/** The schema of an id from a database. It checks no form, which would cost more than the rest of an answer. */
export const storedId = <Id extends string>() => z.string() as unknown as z.ZodType<Id, Id>;

/** The schema of an id that `parse` checks and makes canonical. */
export function checkedId<Id extends string>(parse: (text: string) => Id | undefined, message: string) {
  return z.string({ error: "is required" }).transform((text, context): Id => {
    const id = parse(text);
    if (id !== undefined) return id;
    context.addIssue({ code: "custom", message });
    return z.NEVER;
  });
}

/** Returns undefined when `text` is not a UUID in canonical (lower case) form. */
export function parseCanonicalUuid(text: string): string | undefined {
  return UUID.test(text) ? text : undefined;
}

/** Returns undefined when `text` is no UUID. */
export function parseEventId(text: string): EventId | undefined {
  return canonicalUuid(text) as EventId | undefined;
}

/** Returns undefined when `text` is no UUID. */
export function parseBookingId(text: string): BookingId | undefined {
  return canonicalUuid(text) as BookingId | undefined;
}

/**
 * A user id: 1 to 255 characters in NFC (Unicode Standard Annex 15) that can all be seen. One user must not be several by
 * spelling, each with a limit of their own (B3). OpenID Connect allows 255 characters (Core 1.0 §2).
 */
export function parseUserId(text: unknown): UserId | undefined {
  if (typeof text !== "string") return undefined;
  if (PLAIN_USER.test(text)) return text as UserId;
  // The time to normalise marks in a row grows with the square of their number.
  if (text.length > USER_UNITS_MAX) return undefined;
  const normal = text.normalize("NFC");
  return USER.test(normal) ? (normal as UserId) : undefined;
}

/** An idempotency key: 1 to 128 visible ASCII characters, spaces inside allowed. */
export function parseIdempotencyKey(text: string): IdempotencyKey | undefined {
  return KEY.test(text) ? (text as IdempotencyKey) : undefined;
}

/** A shard id: 1 to 32 of `a-z`, `0-9` and `-`; it is also a metric label. */
export function parseShardId(text: string): ShardId | undefined {
  return SHARD.test(text) ? (text as ShardId) : undefined;
}

/** Event ids sort by the time of their creation. */
export function newEventId(nowMs: number): EventId {
  return uuidV7(nowMs, randomBytes(2).readUInt16BE() & 0xfff) as EventId;
}

/** `slot` is the slot of the event. */
export function newBookingId(slot: Slot, nowMs: number): BookingId {
  return uuidV7(nowMs, slot) as BookingId;
}

/** A key for a request without one, which makes the router's second try safe. */
export function newIdempotencyKey(): IdempotencyKey {
  return randomUUID() as string as IdempotencyKey;
}

/** The slot that a booking id carries. */
export function slotOfBooking(id: BookingId): Slot {
  return Number.parseInt(id.slice(15, 18), 16) as Slot;
}

/** When the id was made, in milliseconds since the epoch. */
export function timeOf(id: EventId | BookingId): number {
  return Number.parseInt(id.slice(0, 8) + id.slice(9, 13), 16);
}

function canonicalUuid(text: string): string | undefined {
  if (text.length !== UUID_CHARACTERS) return undefined;
  return parseCanonicalUuid(text) ?? parseCanonicalUuid(text.toLowerCase());
}

function uuidV7(unixMs: number, randA: number): string {
  const time = unixMs.toString(16).padStart(12, "0");
  const variantAndRandB = randomUUID().slice(19);
  return `${time.slice(0, 8)}-${time.slice(8)}-7${randA.toString(16).padStart(3, "0")}-${variantAndRandB}`;
}
