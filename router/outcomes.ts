/** What a client is told when the answer is no: outcomes of the cluster, as problems. */
import { Problem } from "../shared/errors.ts";
import type { CommandResult, EventResult } from "../shared/wire.ts";

type Refusal = Exclude<CommandResult, { booking: unknown }> | Exclude<EventResult, { outcome: "saved" }>;

export function problemOf(refusal: Refusal): Problem {
  switch (refusal.outcome) {
    case "sold_out":
      return new Problem("sold_out", "Every ticket of the event is sold or held.");
    case "insufficient_tickets": {
      const { availableTickets } = refusal;
      return new Problem("insufficient_tickets", `Only ${availableTickets} left; ask for fewer.`, {
        availableTickets,
      });
    }
    case "user_limit_exceeded": {
      const { maxPerUser, held } = refusal;
      const detail = `A user may have ${maxPerUser} tickets of this event and has ${held}.`;
      return new Problem("user_limit_exceeded", detail, { maxPerUser, held });
    }
    case "sales_not_open":
      return new Problem("sales_not_open", "Sales have not begun, have ended, or are paused.");
    case "event_not_found":
      return new Problem("event_not_found", "There is no event with this id.");
    case "booking_not_found":
      return new Problem("booking_not_found", "There is no booking of yours with this id.");
    case "hold_expired":
      return new Problem(
        "hold_expired",
        "The hold is over and its tickets cannot be claimed again; book anew.",
      );
    case "idempotency_key_reused":
      return new Problem(
        "idempotency_key_reused",
        "The key was used for another quantity or kind of booking; use a new key.",
      );
    case "below_sold":
      return new Problem("below_sold", "totalTickets would be less than the tickets sold and held.");
    case "invalid_sales_window":
      return new Problem("invalid_request", "The sales window would end before it begins.", {
        errors: [{ path: "salesEndAt", message: "must be after salesStartAt" }],
      });
    case "overloaded":
      return new Problem(
        "overloaded",
        "The queue of this event's shard is full or too slow; nothing was done.",
      );
    case "shard_unavailable":
    case "wrong_shard":
      return new Problem("shard_unavailable", "The shard does not answer; nothing was done.");
    case "outcome_unknown":
      return new Problem(
        "outcome_unknown",
        "The answer was lost. Send the request again; a new booking with the Idempotency-Key of this answer.",
      );
    case "internal":
      return new Problem("internal", "The shard met an error of its own; it is logged there.");
  }
}
