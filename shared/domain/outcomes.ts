/** The result of a command: a decision of the shard, or a failure, when there is no decision. */
import { z } from "zod";
import { bookingSchema } from "./bookings.ts";

export const decisionSchemas = [
  z.object({
    outcome: z.enum(["booked", "held", "replayed", "confirmed", "cancelled"]),
    booking: bookingSchema,
    /** Of the shard's log (changes.ts): whoever has followed it to here knows this booking. Nodes always say it. */
    position: z.string().optional(),
  }),
  z.object({ outcome: z.literal("insufficient_tickets"), availableTickets: z.number() }),
  z.object({ outcome: z.literal("user_limit_exceeded"), maxPerUser: z.number(), held: z.number() }),
  z.object({
    outcome: z.enum([
      "sold_out",
      "sales_not_open",
      "event_not_found",
      "booking_not_found",
      "hold_expired",
      "idempotency_key_reused",
      "wrong_shard",
      // Only a booking request becomes too old to be decided.
      "lapsed",
    ]),
  }),
] as const;
/** What a shard decided about one command. A refusal is a value, never an exception. */
export type Decision = Readonly<z.infer<(typeof decisionSchemas)[number]>>;

export const failureSchema = z.object({
  outcome: z.enum(["overloaded", "rate_limited", "shard_unavailable", "outcome_unknown", "internal"]),
});
/** Why there is no decision. Only after `outcome_unknown` may the command have taken effect. */
export type Failure = Readonly<z.infer<typeof failureSchema>>;

export type CommandResult = Decision | Failure;

const MAY_CHANGE: ReadonlySet<string> = new Set([
  "sold_out",
  "insufficient_tickets",
  "user_limit_exceeded",
  "sales_not_open",
  "hold_expired",
  "below_sold",
  "invalid_sales_window",
  // The lost try itself may have made the newer version.
  "version_mismatch",
  "overloaded",
  "rate_limited",
  "shard_unavailable",
]);

/**
 * The result of a second try when the shard may still decide the lost first try. A refusal becomes `outcome_unknown`, because
 * the first try may yet succeed (F1).
 */
export function afterLostTry<Result extends { readonly outcome: string }>(result: Result): Result | Failure {
  return MAY_CHANGE.has(result.outcome) ? { outcome: "outcome_unknown" } : result;
}
