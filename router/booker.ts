/** Books and holds tickets, whichever way the request came in: over its route or over the short path before it. */
import type { Problem } from "../shared/errors.ts";
import { type EventId, type IdempotencyKey, newIdempotencyKey } from "../shared/ids.ts";
import type { BookCommand, Booking, CommandResult, SettleCommand } from "../shared/wire.ts";
import type { Span } from "../shared/tracing.ts";
import { problemOf } from "./outcomes.ts";
import type { RouterParts } from "./parts.ts";

/** The command without its key: who sends none gets one. */
export type Wish =
  Omit<Extract<BookCommand, { kind: "book" }>, "key"> | Omit<Extract<BookCommand, { kind: "hold" }>, "key">;

export type BookAnswer =
  | { readonly booking: Booking; readonly replayed: boolean }
  /** `key` is the one that was made up, when the client needs it to find out what became of its request. */
  | { readonly problem: Problem; readonly key?: IdempotencyKey };

/** Made once and sent, not thrown: the answer to nearly everybody, once the last ticket is gone. */
export const SOLD_OUT = problemOf({ outcome: "sold_out" });

export class Booker {
  readonly #cluster: RouterParts["cluster"];
  readonly #cache: RouterParts["cache"];
  readonly #metrics: RouterParts["metrics"];

  constructor({ cluster, cache, metrics }: Pick<RouterParts, "cluster" | "cache" | "metrics">) {
    this.#cluster = cluster;
    this.#cache = cache;
    this.#metrics = metrics;
  }

  /** True when memory alone says SOLD_OUT. A retry with a key must find its booking, so only requests without one are. */
  isRefused(eventId: EventId, given: IdempotencyKey | undefined): boolean {
    if (given !== undefined || !this.#cache.isSoldOut(eventId)) return false;
    this.#metrics.soldOutFast();
    this.#metrics.outcome("sold_out");
    return true;
  }

  /** Has the shard decide. `given` is the client's own key. */
  async book(wish: Wish, given: IdempotencyKey | undefined, span?: Span): Promise<BookAnswer> {
    const key = given ?? newIdempotencyKey();
    const result = await this.decide({ ...wish, key }, span);
    // A key made here is never seen by a client, so what it replays is this very request.
    if ("booking" in result)
      return { booking: result.booking, replayed: result.outcome === "replayed" && given !== undefined };
    const problem = problemOf(result);
    return result.outcome === "outcome_unknown" ? { problem, key } : { problem };
  }

  /** Any command, counted by its outcome. */
  async decide(command: BookCommand | SettleCommand, span?: Span): Promise<CommandResult> {
    const result = await this.#cluster.command(command, span);
    this.#metrics.outcome(result.outcome);
    return result;
  }
}
