/**
 * Commands: what a user wants a shard to do. A route makes one value of each request. Coalescer, wire and lane carry the value
 * unchanged, and SQL gets its members as columns.
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
  /** The event's slot, which decides the shard and the lane. */
  readonly slot: Slot;
  /** In whole milliseconds of the `elapsed()` of the router that made the command. */
  readonly deadline: number;
}

interface Claim extends Routed {
  readonly eventId: EventId;
  readonly userId: UserId;
  readonly quantity: number;
  readonly key: IdempotencyKey;
  /**
   * The id of a booking request: of the booking that it becomes, if it is granted (Q1). Undefined when a client waits for the
   * decision, whose booking gets its id from the node.
   */
  readonly requestId?: BookingId;
}
export type BookCommand =
  (Claim & { readonly kind: "book" }) | (Claim & { readonly kind: "hold"; readonly ttlSeconds: number });

/** A booking command that waits in the queue for its decision. */
export type RequestCommand = BookCommand & { readonly requestId: BookingId };

/** Gives a booking another status. */
export interface SettleCommand extends Routed {
  readonly kind: "confirm" | "cancel";
  readonly bookingId: BookingId;
  /** The user who must own the booking. Null for an operator, who may settle every booking. */
  readonly userId: UserId | null;
}

export type Command = BookCommand | SettleCommand;

export function isBookCommand(command: Command): command is BookCommand {
  return command.kind === "book" || command.kind === "hold";
}

export function isRequest(command: Command): command is RequestCommand {
  return isBookCommand(command) && command.requestId !== undefined;
}

/**
 * Whose command for which event it is; undefined for an operator's, and for a request: the queue bounds those. The slot stands
 * for the event, because a settling command does not name the event.
 */
export function userKeyOf(command: Command): string | undefined {
  const { slot, userId } = command;
  return userId === null || isRequest(command) ? undefined : `${slot} ${userId}`;
}

/**
 * Checks a value from another process. A zod schema would take five times as long, and in a rush a call carries 500 commands.
 * Bounds are not checked here: the router's schemas and the shard's constraints check them.
 */
export function isCommand(value: unknown): value is Command {
  if (typeof value !== "object" || value === null) return false;
  const { kind, eventId, bookingId, slot, userId, quantity, key, ttlSeconds, requestId, deadline } =
    value as Readonly<Record<string, unknown>>;
  if (!isSlot(slot) || !Number.isSafeInteger(deadline)) return false;
  switch (kind) {
    case "book":
    case "hold":
      return (
        (kind === "book" || Number.isSafeInteger(ttlSeconds)) &&
        isUuid(eventId) &&
        isUserId(userId) &&
        Number.isSafeInteger(quantity) &&
        typeof key === "string" &&
        parseIdempotencyKey(key) !== undefined &&
        (requestId === undefined || isUuid(requestId))
      );
    case "confirm":
    case "cancel":
      return isUuid(bookingId) && (userId === null || isUserId(userId));
    default:
      return false;
  }
}

function isUuid(value: unknown): boolean {
  return typeof value === "string" && parseCanonicalUuid(value) !== undefined;
}

/** In the form that routers send; another spelling would be another user. */
function isUserId(value: unknown): boolean {
  return value !== undefined && parseUserId(value) === value;
}
