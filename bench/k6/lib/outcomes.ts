/** What can become of a request: a closed set, so that the runner knows which counters there may be. */
export const OUTCOMES = [
  "read",
  "not_modified",
  "listed",
  "booked",
  "held",
  "confirmed",
  "cancelled",
  // The expected ones of the contract's refusals, by code (409).
  "sold_out",
  "insufficient_tickets",
  "user_limit_exceeded",
  "sales_not_open",
  "hold_expired",
  /** Anything else: another status, or no answer at all. */
  "failed",
] as const;
export type Outcome = (typeof OUTCOMES)[number];

/** The counter's name in k6. */
export const counterOf = (outcome: Outcome): string => `onsale_${outcome}`;
