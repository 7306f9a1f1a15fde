/** What travels through the simulated cluster. */
import type { Load } from "../popularity.ts";

/** How a booking ended: a shard decided it, no shard could be asked, or it would have had to wait too long. */
export type Outcome = "decided" | "unavailable" | "overloaded";

export interface Command {
  readonly router: number;
  readonly shard: number;
  readonly lane: number;
  readonly event: number;
  readonly kind: keyof Load;
  readonly arrivedAt: number;
  /** What the shard said. */
  answer: Outcome | undefined;
  /** How it ended for the client; it does so once. */
  end: Outcome | undefined;
}

/** Commands on their way from a router to a shard and back. */
export interface Call {
  readonly commands: readonly Command[];
  /** Commands of it that the shard has not answered. */
  open: number;
  /** Called once, with every answer or, when the shard is lost, without them. */
  readonly returned: () => void;
}
