/**
 * `Onsale-Position`: how far one must have followed the log of changes to know the booking of an answer, and which booking that
 * is. Clients need not understand it; they send it back to read their own bookings with that one.
 */
import type { IncomingMessage } from "node:http";
import { type BookingId, parseBookingId, parseShardId, type ShardId } from "../../shared/domain/ids.ts";
import { invalid } from "./input.ts";
import type { ResponseHeaders } from "./responses.ts";

export const POSITION_HEADER = "onsale-position";

/** Where a change stands in the logs, and the booking that it changed. */
export interface Position {
  readonly shard: ShardId;
  readonly position: number;
  readonly bookingId: BookingId;
}

/** The shard's part (`positionText`), and the booking. */
const FORM = /^([^.]{1,32})\.(\d{1,16})\.([^.]{1,36})$/;

/** The header for a decision of a shard. A node of the version before says no position. */
export function positionHeader({
  position,
  booking,
}: {
  readonly position?: string | undefined;
  readonly booking: { readonly id: BookingId };
}): ResponseHeaders {
  return position === undefined ? {} : { [POSITION_HEADER]: `${position}.${booking.id}` };
}

/** The position that a client sends back, or undefined. Throws a Problem when it is none. */
export function positionOf({ headers }: IncomingMessage): Position | undefined {
  const text = headers[POSITION_HEADER]?.toString();
  if (text === undefined) return undefined;
  const [, shardText = "", digits = "", idText = ""] = FORM.exec(text) ?? [];
  const [shard, position, bookingId] = [parseShardId(shardText), Number(digits), parseBookingId(idText)];
  if (shard !== undefined && bookingId !== undefined && Number.isSafeInteger(position))
    return { shard, position, bookingId };
  throw invalid("header", [{ path: POSITION_HEADER, message: "must be what an earlier answer carried" }]);
}
