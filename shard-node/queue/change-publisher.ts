/**
 * Publishes what has changed to the broker, as CloudEvents (shared/domain/cloud-events.ts), for all who bind a queue. At least once,
 * and what is told of an event is published in its order: the next change of an event is sent when all of the one before is
 * confirmed. So even a refusal of one message lets none overtake it.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Change } from "../../shared/domain/changes.ts";
import { CLOUD_EVENT_TYPE, type Told, toldOf } from "../../shared/domain/cloud-events.ts";
import type { EventId, ShardId } from "../../shared/domain/ids.ts";
import type { Broker, Published } from "../../shared/queue/broker.ts";
import { CHANGES_EXCHANGE } from "../../shared/queue/queues.ts";
import type { Work } from "../read/log-follower.ts";

/** Messages without a confirmation. */
export const ROUND_MAX = 100;
/**
 * Messages cost processor of the node, which its bookings must not miss. In a longer rush the
 * publisher falls behind, and catches up afterwards.
 */
export const MESSAGES_PER_SECOND_MAX = 2_000;
/** Shorter pauses are saved up. */
const PACE_MIN_MS = 10;
/** Pauses after a message that was not confirmed: each is twice as long as the one before. */
const PAUSE_MIN_MS = 50;
const PAUSE_MAX_MS = 2_000;

/** What becomes of a message, in the broker's words. */
export const PUBLISHED = ["confirmed", "refused", "unknown", "away"] as const satisfies readonly Published[];

interface Message extends Told {
  readonly position: number;
}

export class ChangePublisher implements Work {
  readonly follower = "publisher";
  readonly #shard: ShardId;
  readonly #broker: Pick<Broker, "up" | "announce">;
  readonly #counted: (result: Published, messages: number) => void;
  /** When what was sent until now has had its time. */
  #paidUntil = 0;

  constructor(
    shard: ShardId,
    broker: Pick<Broker, "up" | "announce">,
    counted: (result: Published, messages: number) => void,
  ) {
    this.#shard = shard;
    this.#broker = broker;
    this.#counted = counted;
  }

  isReady(): boolean {
    return this.#broker.up;
  }

  async run(changes: readonly Change[], signal: AbortSignal): Promise<boolean> {
    let rest: readonly Message[] = changes.flatMap((change) =>
      toldOf(this.#shard, change).map((told) => ({ ...told, position: change.position })),
    );
    let pauseMs = PAUSE_MIN_MS;
    while (rest.length > 0) {
      if (signal.aborted) return false;
      // After a failure one message is tried alone: it may have reached other queues, and reaches them with each try.
      const round = nextOf(rest, pauseMs === PAUSE_MIN_MS ? ROUND_MAX : 1);
      const confirmed = new Set<Message>();
      await Promise.all(
        round.map(async (message) => {
          const result = await this.#publish(message);
          this.#counted(result, 1);
          if (result === "confirmed") confirmed.add(message);
        }),
      );
      rest = rest.filter((message) => !confirmed.has(message));
      await this.#pace(round.length, signal);
      if (confirmed.size === round.length) {
        pauseMs = PAUSE_MIN_MS;
        continue;
      }
      await sleep(pauseMs, undefined, { signal }).catch(() => undefined);
      pauseMs = Math.min(2 * pauseMs, PAUSE_MAX_MS);
    }
    return true;
  }

  async #pace(messages: number, signal: AbortSignal): Promise<void> {
    const now = performance.now();
    this.#paidUntil = Math.max(this.#paidUntil, now) + (messages * 1_000) / MESSAGES_PER_SECOND_MAX;
    const ahead = this.#paidUntil - now;
    if (ahead >= PACE_MIN_MS) await sleep(ahead, undefined, { signal }).catch(() => undefined);
  }

  async #publish({ eventId, cloudEvent }: Message): Promise<Published> {
    const { id, type } = cloudEvent;
    return this.#broker.announce(
      CHANGES_EXCHANGE,
      `${type}.${eventId}`,
      Buffer.from(JSON.stringify(cloudEvent)),
      { messageId: id, contentType: CLOUD_EVENT_TYPE },
    );
  }
}

/** The first messages, of each event those of one change. */
function nextOf(messages: readonly Message[], max: number): readonly Message[] {
  const positions = new Map<EventId, number>();
  const next: Message[] = [];
  for (const message of messages) {
    const { eventId, position } = message;
    if (next.length === max) break;
    if ((positions.get(eventId) ?? position) !== position) continue;
    positions.set(eventId, position);
    next.push(message);
  }
  return next;
}
