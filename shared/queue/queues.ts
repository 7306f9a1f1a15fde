/**
 * The queues of booking requests. Each shard has one for each group of its slots, so the requests of an event are in one
 * queue, in the order in which it accepted them, and those of other groups do not wait behind them
 * (docs/decisions/0022-one-queue-per-slot-group.md).
 */
import type { ShardId } from "../domain/ids.ts";
import type { Slot } from "../domain/slots.ts";

const SLOT_GROUPS = 8;
/**
 * What one queue holds; what is more is refused when it is published. A message has several requests, so its bytes count too:
 * room for some 100,000 requests of usual size.
 */
const QUEUE_MESSAGES_MAX = 50_000;
const QUEUE_BYTES_MAX = 32 * 1024 * 1024;
const DEAD_LENGTH_MAX = 10_000;
/** Deliveries of one message that nobody acknowledged. Without a bound of its own, RabbitMQ 4 gives up after 20. */
const DELIVERIES_MAX = 1_000;

/** Messages that no node can decide, with the reason in the header `reason`. */
export const DEAD_QUEUE = "onsale.dead";

/** A topic exchange, to which nodes publish what has changed. Whoever wants to hear of it binds a queue of their own. */
export const CHANGES_EXCHANGE = "onsale.changes";

export function queueOf(shard: ShardId, slot: Slot): string {
  return `onsale.${shard}.${slot % SLOT_GROUPS}`;
}

export function queuesOf(shard: ShardId): readonly string[] {
  return Array.from({ length: SLOT_GROUPS }, (_, group) => queueOf(shard, group as Slot));
}

/**
 * What a queue is declared with. Everybody must say the same, or the broker refuses, so none of it is a setting: an operator
 * changes a bound by a policy. A quorum queue is on disk before it confirms, and on most brokers of a cluster.
 */
export function argumentsOf(queue: string): Readonly<Record<string, string | number | boolean>> {
  if (queue === DEAD_QUEUE)
    return { "x-queue-type": "quorum", "x-max-length": DEAD_LENGTH_MAX, "x-overflow": "drop-head" };
  return {
    "x-queue-type": "quorum",
    "x-single-active-consumer": true,
    "x-max-length": QUEUE_MESSAGES_MAX,
    "x-max-length-bytes": QUEUE_BYTES_MAX,
    "x-overflow": "reject-publish",
    "x-delivery-limit": DELIVERIES_MAX,
    "x-dead-letter-exchange": "",
    "x-dead-letter-routing-key": DEAD_QUEUE,
  };
}
