/**
 * Receipts of booking requests. A receipt is all that a router keeps of a request: the client brings it back, and any router
 * can check it and ask the shard (docs/decisions/0023-stateless-receipts.md). It holds the ids of the request and of its event, what was
 * asked for, and a code that only routers can make (HMAC, RFC 2104). The code covers the user too, who is not in the receipt:
 * another user's receipt is none at all (Q6).
 */
import { createHmac, hkdfSync, timingSafeEqual } from "node:crypto";
import {
  type BookingId,
  type EventId,
  parseBookingId,
  parseEventId,
  type UserId,
} from "../../shared/domain/ids.ts";

export interface Receipt {
  readonly bookingId: BookingId;
  readonly eventId: EventId;
  readonly kind: "book" | "hold";
  readonly quantity: number;
}

/** Two ids and a byte for kind and quantity. */
const CONTENT_BYTES = 33;
/** 144 bits; RFC 2104 §5 asks for 128 of SHA-256. With the content it is a multiple of three, so that base64 has one spelling. */
const CODE_BYTES = 18;
const FORM = /^[\w-]{68}$/;
const HOLD = 0x80;

export class Receipts {
  readonly #keys: readonly Buffer[];

  /** The first secret makes receipts, all of them check. */
  constructor(secrets: readonly string[]) {
    this.#keys = secrets.map((secret) => Buffer.from(hkdfSync("sha256", secret, "", "onsale receipt 1", 32)));
  }

  give({ bookingId, eventId, kind, quantity }: Receipt, userId: UserId): string {
    const [key] = this.#keys;
    if (key === undefined) throw new Error("there is no secret for receipts");
    const content = Buffer.concat([
      bytesOf(bookingId),
      bytesOf(eventId),
      Buffer.of(quantity | (kind === "hold" ? HOLD : 0)),
    ]);
    return Buffer.concat([content, codeOf(key, content, userId)]).toString("base64url");
  }

  /** Returns undefined when this user was never given it. */
  read(text: string, userId: UserId): Receipt | undefined {
    if (!FORM.test(text)) return undefined;
    const bytes = Buffer.from(text, "base64url");
    const [content, code] = [bytes.subarray(0, CONTENT_BYTES), bytes.subarray(CONTENT_BYTES)];
    if (!this.#keys.some((key) => timingSafeEqual(codeOf(key, content, userId), code))) return undefined;
    const bookingId = parseBookingId(uuidOf(content.subarray(0, 16)));
    const eventId = parseEventId(uuidOf(content.subarray(16, 32)));
    const what = content[CONTENT_BYTES - 1] ?? 0;
    if (bookingId === undefined || eventId === undefined) return undefined;
    return { bookingId, eventId, kind: (what & HOLD) === 0 ? "book" : "hold", quantity: what & ~HOLD };
  }
}

function codeOf(key: Buffer, content: Buffer, userId: UserId): Buffer {
  return createHmac("sha256", key).update(content).update(userId).digest().subarray(0, CODE_BYTES);
}

function bytesOf(id: string): Buffer {
  return Buffer.from(id.replaceAll("-", ""), "hex");
}

function uuidOf(bytes: Buffer): string {
  return bytes.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
