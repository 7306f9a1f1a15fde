/**
 * What the contract says of an answer: exactly these members, of these kinds. Nothing of the product checks it here, only
 * its words do, so that a router which forgets a member is noticed by its clients' side.
 */
import { type ProblemSpec, PROBLEMS } from "../../../router/http/problems.ts";
import type { Booking } from "../../../shared/domain/bookings.ts";
import type { Event } from "../../../shared/domain/events.ts";

/** The parts of an HTTP answer that are looked at. */
export interface Answer {
  readonly status: number;
  /** By their canonical names, such as "Content-Type". */
  readonly headers: Readonly<Record<string, string | undefined>>;
  /** The body, parsed; undefined when it is no JSON. */
  readonly body: unknown;
}

export interface Page {
  readonly items: readonly Event[];
  readonly nextCursor: string | null;
}

type Shape<T> = { readonly [Member in keyof T]: (value: unknown) => boolean };

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/;

const text = (value: unknown) => typeof value === "string" && value !== "";
const count = (value: unknown) => typeof value === "number" && Number.isInteger(value) && value >= 0;
const id = (value: unknown) => typeof value === "string" && UUID.test(value);
const time = (value: unknown) => typeof value === "string" && TIME.test(value);
const orNull = (check: (value: unknown) => boolean) => (value: unknown) => value === null || check(value);
const oneOf =
  (...words: string[]) =>
  (value: unknown) =>
    words.some((word) => word === value);

const EVENT: Shape<Event> = {
  id,
  ownerId: orNull(text),
  name: text,
  venue: orNull(text),
  startsAt: time,
  salesStartAt: orNull(time),
  salesEndAt: time,
  status: oneOf("on_sale", "paused", "closed"),
  totalTickets: count,
  availableTickets: count,
  maxPerUser: count,
  intake: oneOf("direct", "queue"),
  version: count,
  createdAt: time,
  updatedAt: time,
};
const BOOKING: Shape<Booking> = {
  id,
  eventId: id,
  userId: text,
  quantity: count,
  status: oneOf("held", "confirmed", "cancelled", "expired"),
  expiresAt: orNull(time),
  createdAt: time,
  updatedAt: time,
};

const PAGE: Shape<Page> = { items: Array.isArray, nextCursor: orNull(text) };
const CATALOGUE: ReadonlyMap<unknown, ProblemSpec> = new Map(Object.entries(PROBLEMS));

export function isEvent(value: unknown): value is Event {
  return fits(value, EVENT) && value.availableTickets <= value.totalTickets;
}

export function isBooking(value: unknown): value is Booking {
  return fits(value, BOOKING) && (value.status !== "held" || value.expiresAt !== null);
}

/** Newest first: the ids of events order by the time at which they were made. */
export function isPage(value: unknown): value is Page {
  if (!fits(value, PAGE)) return false;
  const { items } = value;
  return items.every((item, index) => {
    const before = items[index - 1];
    return isEvent(item) && (before === undefined || before.id > item.id);
  });
}

/** The code of a problem document (RFC 9457) that is as the catalogue has it; undefined when it is not. */
export function problemCode({ status, headers, body }: Answer): string | undefined {
  if (!isObject(body) || !text(body["type"]) || !text(body["detail"])) return undefined;
  const { code, title, requestId } = body;
  const spec = CATALOGUE.get(code);
  const isSound =
    spec?.status === status &&
    body["status"] === status &&
    title === spec.title &&
    requestId === headers["X-Request-Id"] &&
    headers["Content-Type"]?.startsWith("application/problem+json") === true &&
    (status !== 503 || text(headers["Retry-After"]));
  return isSound && typeof code === "string" ? code : undefined;
}

function fits<T>(value: unknown, shape: Shape<T>): value is T {
  if (!isObject(value) || Object.keys(value).length !== Object.keys(shape).length) return false;
  return Object.entries<(value: unknown) => boolean>(shape).every(([member, check]) => check(value[member]));
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}
