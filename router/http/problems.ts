/**
 * The catalogue of problems that a client can meet (RFC 9457), and the problem for each outcome of a shard. `docs/errors.md`
 * explains each problem; a test holds both equal. k6 loads this file, so it imports nothing but types.
 */
import type { CommandResult } from "../../shared/domain/outcomes.ts";
import type { EventResult, WebhooksDone, WebhooksResult } from "../../shared/wire/rpc.ts";

export interface ProblemSpec {
  readonly status: number;
  readonly title: string;
  /** never: a retry meets the same problem. later: a retry may work after `Retry-After`. same-key: later, with the same key. */
  readonly retry: "never" | "later" | "same-key";
}

export const PROBLEMS = {
  invalid_request: { status: 400, retry: "never", title: "The request is not valid." },
  unauthenticated: { status: 401, retry: "never", title: "A valid bearer token is required." },
  forbidden: { status: 403, retry: "never", title: "The token does not allow this." },
  not_found: { status: 404, retry: "never", title: "There is nothing at this address." },
  event_not_found: { status: 404, retry: "never", title: "There is no such event." },
  booking_not_found: { status: 404, retry: "never", title: "There is no such booking." },
  booking_request_not_found: { status: 404, retry: "never", title: "There is no such booking request." },
  method_not_allowed: { status: 405, retry: "never", title: "This address does not know that method." },
  sold_out: { status: 409, retry: "never", title: "No tickets are left." },
  insufficient_tickets: { status: 409, retry: "never", title: "Fewer tickets are left than wanted." },
  user_limit_exceeded: { status: 409, retry: "never", title: "The limit of tickets per user is reached." },
  sales_not_open: { status: 409, retry: "never", title: "The event is not on sale now." },
  hold_expired: { status: 409, retry: "never", title: "The hold has expired and cannot be confirmed." },
  below_sold: { status: 409, retry: "never", title: "More tickets are sold than the new total." },
  too_many_webhooks: { status: 409, retry: "never", title: "The event has all the webhooks it may have." },
  version_mismatch: { status: 412, retry: "never", title: "The event has changed meanwhile." },
  body_too_large: { status: 413, retry: "never", title: "The request body is too large." },
  unsupported_media_type: {
    status: 415,
    retry: "never",
    title: "The request body must be application/json in UTF-8, not compressed.",
  },
  idempotency_key_reused: {
    status: 422,
    retry: "never",
    title: "The idempotency key belongs to another request.",
  },
  precondition_required: {
    status: 428,
    retry: "never",
    title: "The change must say of which version it is.",
  },
  rate_limited: { status: 429, retry: "later", title: "Too many requests." },
  internal: { status: 500, retry: "same-key", title: "Something broke on our side." },
  overloaded: { status: 503, retry: "later", title: "More work arrived than can be done in time." },
  shard_unavailable: { status: 503, retry: "later", title: "The shard of this event cannot be reached." },
  read_side_unavailable: {
    status: 503,
    retry: "later",
    title: "Lists of bookings and statistics cannot be had now.",
  },
  outcome_unknown: { status: 503, retry: "same-key", title: "The request may or may not have taken effect." },
} as const satisfies Record<string, ProblemSpec>;

export type ProblemCode = keyof typeof PROBLEMS;

/** The members of a problem document that only some problems have (RFC 9457 §3.2). */
export interface ProblemMembers {
  readonly errors?: { path: string; message: string }[];
  readonly availableTickets?: number;
  readonly maxPerUser?: number;
  readonly held?: number;
}

/** One problem of the catalogue, with what is particular to this request. responses.ts turns it into a response. */
export class Problem extends Error {
  override readonly name = "Problem";
  readonly code: ProblemCode;
  readonly members: ProblemMembers;
  readonly headers: Readonly<Record<string, string>> | undefined;

  constructor(
    code: ProblemCode,
    detail: string,
    members: ProblemMembers = {},
    headers?: Readonly<Record<string, string>>,
  ) {
    super(detail);
    this.code = code;
    this.members = members;
    this.headers = headers;
  }
}

const EXCERPT_CHARACTERS = 100;

/** As much of a text that a client may have written as a problem repeats (I3). */
export function excerptOf(text: string): string {
  return text.length <= EXCERPT_CHARACTERS ? text : `${text.slice(0, EXCERPT_CHARACTERS).toWellFormed()}…`;
}

type RefusalOrFailure =
  | Exclude<CommandResult, { booking: unknown }>
  | Exclude<EventResult, { outcome: "saved" }>
  | Exclude<WebhooksResult, { outcome: WebhooksDone }>;

const DETAILS = {
  sold_out: "Every ticket of the event is sold or held.",
  sales_not_open: "Sales have not begun, have ended, or are paused.",
  forbidden: "Only the organizer who created an event may change it.",
  event_not_found: "There is no event with this id.",
  booking_not_found: "There is no booking of yours with this id.",
  hold_expired: "The hold has expired and its tickets are gone; send a new booking.",
  idempotency_key_reused: "The key was used for a request with other content; use a new key.",
  version_mismatch: "No version of If-Match is the event's newest; read the event again.",
  too_many_webhooks: "The event has all the webhooks it may have; delete one first.",
  below_sold: "totalTickets would be less than the tickets sold and held.",
  rate_limited: "Too many requests of this user for this event are under way; wait for their answers.",
  overloaded: "The shard of this event cannot do more in time; nothing was done.",
  shard_unavailable: "The shard does not answer; nothing was done.",
  outcome_unknown: "The shard's answer was lost. Send the request again.",
  internal: "The shard met a bug and logged it.",
} as const satisfies Partial<Record<ProblemCode, string>>;

export function problemOf(result: RefusalOrFailure): Problem {
  if (result.outcome === "insufficient_tickets") {
    const { outcome, availableTickets } = result;
    return new Problem(outcome, `Only ${availableTickets} left; ask for fewer.`, { availableTickets });
  }
  if (result.outcome === "user_limit_exceeded") {
    const { outcome, maxPerUser, held } = result;
    const detail = `A user may have ${maxPerUser} tickets of this event and has ${held}.`;
    return new Problem(outcome, detail, { maxPerUser, held });
  }
  if (result.outcome === "invalid_sales_window") {
    const errors = [{ path: "salesEndAt", message: "must be after salesStartAt" }];
    return new Problem(
      "invalid_request",
      "The sales window would end before it begins; without salesEndAt it ends at startsAt.",
      { errors },
    );
  }
  if (result.outcome === "forbidden_target") {
    const errors = [{ path: "url", message: result.reason }];
    return new Problem("invalid_request", "Nobody can be told at this URL.", { errors });
  }
  if (result.outcome === "rate_limited")
    return new Problem("rate_limited", DETAILS.rate_limited, {}, { ratelimit: '"user-under-way";r=0;t=1' });
  // Only booking requests lapse, and theirs are no problems.
  const isNoCode = result.outcome === "wrong_shard" || result.outcome === "lapsed";
  const code = isNoCode ? "shard_unavailable" : result.outcome;
  return new Problem(code, DETAILS[code]);
}
