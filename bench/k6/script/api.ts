/**
 * The API as its clients use it. Every answer is held against the contract and counted; what was refused for a reason that
 * the contract names (409) is an answer like any other, and no error.
 */
import { check } from "k6";
import type { Booking } from "../../../shared/domain/bookings.ts";
import { type Answer, isBooking, isEvent, isPage, type Page, problemCode } from "./contract.ts";
import { count, countRefusal, type Outcome } from "./counters.ts";
import { ask, said } from "./requests.ts";
import type { Settings } from "./settings.ts";
import { bearer } from "./tokens.ts";

/** What a buyer asks for. */
export interface Order {
  readonly buyer: string;
  readonly eventId: string;
  readonly quantity: number;
}

/** One complaint of each VU says what is wrong. Thousands would hide it. */
let hasComplained = false;

export class Api {
  readonly #url: string;
  readonly #secret: string;

  constructor({ routerUrl, secret }: Settings) {
    this.#url = `${routerUrl}/v1`;
    this.#secret = secret;
  }

  /** Its ETag, or undefined when the read failed. `known` is the ETag of an earlier read: 304 says that it is still so. */
  readEvent(id: string, known?: string): string | undefined {
    const answer = ask({
      name: "read",
      method: "GET",
      url: `${this.#url}/events/${id}`,
      headers: known === undefined ? {} : { "If-None-Match": known },
      expected: known === undefined ? [200] : [200, 304],
    });
    const { status, headers, body } = answer;
    const etag = headers["Etag"];
    if (status === 304 && known !== undefined) {
      accept(answer, "not_modified", "304 repeats the ETag", etag === known);
      return etag;
    }
    if (status !== 200) return refuse(answer);
    const isSound =
      isEvent(body) &&
      body.id === id &&
      etag === `"${body.version}"` &&
      headers["Cache-Control"] === "public, max-age=1, stale-while-revalidate=5" &&
      headers["Cache-Status"] !== undefined;
    accept(answer, "read", "200 is the event, its version is the ETag, caches are told how long", isSound);
    return etag;
  }

  /** The newest events, or those after the page that gave `cursor`; undefined when that failed. */
  listEvents(limit: number, cursor?: string): Page | undefined {
    const after = cursor === undefined ? "" : `&cursor=${cursor}`;
    const url = `${this.#url}/events?limit=${limit}${after}`;
    const answer = ask({ name: "list", method: "GET", url, expected: [200] });
    if (answer.status !== 200) return refuse(answer);
    const page = isPage(answer.body) && answer.body.items.length <= limit ? answer.body : undefined;
    accept(answer, "listed", "200 is a page of events, newest first", page !== undefined);
    return page;
  }

  /** The booking, or undefined when it was refused. Without a key a router may refuse it out of its memory. */
  book(order: Order, key?: string): Booking | undefined {
    const answer = ask({
      name: "book",
      method: "POST",
      url: `${this.#url}/events/${order.eventId}/bookings`,
      headers:
        key === undefined ? this.#by(order.buyer) : { ...this.#by(order.buyer), "Idempotency-Key": key },
      body: { quantity: order.quantity },
      expected: [201, 409],
    });
    return made(answer, "booked", order, "confirmed");
  }

  /** The hold, or undefined when it was refused. */
  hold(order: Order, ttlSeconds: number, key: string): Booking | undefined {
    const answer = ask({
      name: "hold",
      method: "POST",
      url: `${this.#url}/events/${order.eventId}/holds`,
      headers: { ...this.#by(order.buyer), "Idempotency-Key": key },
      body: { quantity: order.quantity, ttlSeconds },
      expected: [201, 409],
    });
    return made(answer, "held", order, "held");
  }

  confirm({ id, userId }: Booking): void {
    const url = `${this.#url}/bookings/${id}/confirm`;
    settled(
      ask({ name: "confirm", method: "POST", url, headers: this.#by(userId), expected: [200, 409] }),
      "confirmed",
      id,
    );
  }

  cancel({ id, userId }: Booking): void {
    const url = `${this.#url}/bookings/${id}`;
    settled(
      ask({ name: "cancel", method: "DELETE", url, headers: this.#by(userId), expected: [200] }),
      "cancelled",
      id,
    );
  }

  #by(buyer: string): Record<string, string> {
    return { Authorization: bearer(this.#secret, buyer, "buyer") };
  }
}

function made(
  answer: Answer,
  outcome: "booked" | "held",
  { buyer, eventId, quantity }: Order,
  status: Booking["status"],
): Booking | undefined {
  if (answer.status !== 201) return refuse(answer);
  const booking = isBooking(answer.body) ? answer.body : undefined;
  const isSound =
    booking?.eventId === eventId &&
    booking.userId === buyer &&
    booking.quantity === quantity &&
    booking.status === status &&
    answer.headers["Location"] === `/v1/bookings/${booking.id}`;
  accept(answer, outcome, "201 is what was asked for, and says where it is", isSound);
  return booking;
}

function settled(answer: Answer, outcome: "confirmed" | "cancelled", id: string): void {
  const { status, body } = answer;
  if (status !== 200) return refuse(answer);
  const isSound = isBooking(body) && body.id === id && body.status === outcome;
  accept(answer, outcome, `200 is the booking, ${outcome}`, isSound);
}

/** Counts a yes, and holds it against the contract. */
function accept(answer: Answer, outcome: Outcome, rule: string, isSound: boolean): void {
  count(outcome);
  hold(answer, `${outcome}: ${rule}`, isSound && answer.headers["X-Request-Id"] !== undefined);
}

/** Counts an expected no under its code, and anything else as a failure. */
function refuse(answer: Answer): undefined {
  const code = problemCode(answer);
  // No answer at all (status 0) is a fault of the world, and not of the contract.
  if (answer.status !== 0)
    hold(answer, "every no is a problem document of the catalogue", code !== undefined);
  if (answer.status === 409 && countRefusal(code)) return;
  count("failed");
  complain(answer, "an unexpected answer");
}

function hold(answer: Answer, rule: string, isSound: boolean): void {
  check(null, { [rule]: () => isSound });
  if (!isSound) complain(answer, `it is not so that ${rule}`);
}

function complain(answer: Answer, what: string): void {
  if (hasComplained) return;
  hasComplained = true;
  console.error(`${what}: ${said(answer)}`);
}
