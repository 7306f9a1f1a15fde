/** Counts what became of requests, one counter each, named `onsale_<outcome>`: k6's summary shows no tags. */
import { Counter } from "k6/metrics";

const OUTCOMES = [
  "read",
  "not_modified",
  "listed",
  "booked",
  "held",
  "confirmed",
  "cancelled",
  // The refusals that the contract expects, by code (409).
  "sold_out",
  "insufficient_tickets",
  "user_limit_exceeded",
  "sales_not_open",
  "hold_expired",
  /** Anything else: another status, or no answer at all. */
  "failed",
] as const;
export type Outcome = (typeof OUTCOMES)[number];

const counters: ReadonlyMap<string, Counter> = new Map(
  OUTCOMES.map((outcome) => [outcome, new Counter(`onsale_${outcome}`)]),
);

export function count(outcome: Outcome): void {
  counters.get(outcome)?.add(1);
}

/** Counts a refusal under its code. Says whether it is an expected one. */
export function countRefusal(code: unknown): boolean {
  const counter = typeof code === "string" ? counters.get(code) : undefined;
  counter?.add(1);
  return counter !== undefined;
}
