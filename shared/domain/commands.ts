/**
 * What somebody wants of a shard. A route makes one value of each request; coalescer, wire and lane carry that value
 * unchanged, and SQL meets its members as columns.
 */
import {
  type BookingId,
  type EventId,
  type IdempotencyKey,
  parseCanonicalUuid,
  parseIdempotencyKey,
  parseUserId,
  type UserId,
} from "./ids.ts";
import { isSlot, type Slot } from "./slots.ts";

interface Routed {
  /** The event's slot. It names the shard and the lane. */
  readonly slot: Slot;
  /** By the `elapsed()` of the router that made the command, in whole milliseconds. */
  readonly deadline: number;
}

interface Claim extends Routed {
  readonly eventId: EventId;
  readonly userId: UserId;
  readonly quantity: number;
  readonly key: IdempotencyKey;
}
/** Asks for tickets of an event. */
export type BookCommand =
  (Claim & { readonly kind: "book" }) | (Claim & { readonly kind: "hold"; readonly ttlSeconds: number });

/** Asks for another status of a booking. */
export interface SettleCommand extends Routed {
  readonly kind: "confirm" | "cancel";
  readonly bookingId: BookingId;
  /** The booking must be this user's. Null is an operator, who may settle anybody's. */
  readonly userId: UserId | null;
}

export type Command = BookCommand | SettleCommand;

export function isBookCommand(command: Command): command is BookCommand {
  return command.kind === "book" || command.kind === "hold";
}

/**
 * Whether a value from another process is a command. By hand and not by a schema: a rush brings 500 commands in one call,
 * and a zod schema takes five times as long for them. Bounds are not checked again: the router's schemas check them first,
 * the constraints of the shard last.
 */
export function isCommand(value: unknown): value is Command {
  if (typeof value !== "object" || value === null) return false;
  const { kind, eventId, bookingId, slot, userId, quantity, key, ttlSeconds, deadline } = value as Readonly<
    Record<string, unknown>
  >;
  if (!isSlot(slot) || !Number.isSafeInteger(deadline)) return false;
  switch (kind) {
    case "book":
    case "hold":
      return (
        (kind === "book" || Number.isSafeInteger(ttlSeconds)) &&
        isUuid(eventId) &&
        parseUserId(userId) !== undefined &&
        Number.isSafeInteger(quantity) &&
        typeof key === "string" &&
        parseIdempotencyKey(key) !== undefined
      );
    case "confirm":
    case "cancel":
      return isUuid(bookingId) && (userId === null || parseUserId(userId) !== undefined);
    default:
      return false;
  }
}

function isUuid(value: unknown): boolean {
  return typeof value === "string" && parseCanonicalUuid(value) !== undefined;
}
