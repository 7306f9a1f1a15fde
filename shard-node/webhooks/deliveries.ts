/**
 * Delivers to webhooks what has changed, at least once each. What is to be delivered stands in the shard's database, so it survives
 * every node, and the nodes of a shard share the work. In turns a node keeps what became of its tries, has new deliveries
 * written from the log, and takes what is due, within bounds: of one host, of those that fail, and in all. So a
 * target that hangs holds up its own deliveries only.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { toldOf } from "../../shared/domain/cloud-events.ts";
import type { ShardId } from "../../shared/domain/ids.ts";
import { invariant } from "../../shared/domain/invariant.ts";
import type { Log } from "../../shared/process/log.ts";
import { Outage } from "../../shared/process/outage.ts";
import { repeat, type Repeated } from "../../shared/process/repeat.ts";
import type { BookingStore } from "../store/booking-store.ts";
import type { Delivery, Settled, Taken } from "../store/webhooks.ts";
import { TRY_MAX_MS, type WebhookSender } from "./sender.ts";

/** Tries under way: of webhooks that work, of those whose last try failed, of one host. */
const TRIES_MAX = 32;
const FAILING_TRIES_MAX = 16;
export const HOST_TRIES_MAX = 8;
/** Pauses before the next try, in seconds. A delivery that fails after the last one is given up, after 33 hours. */
const SCHEDULE_SECONDS: readonly number[] = [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400];
/** The bookings of a rush must not notice, so its deliveries are written a few at a time; the log keeps the others. */
const GATHER_MAX = 1_000;
const GATHERED_PER_SECOND_MAX = 2_000;
/** Between turns when nothing ends, and after something has. */
const TURN_MS = 500;
const SOON_MS = 25;
/** A try whose node died is made again after so long. */
const TAKEN_SECONDS = (3 * TRY_MAX_MS) / 1_000;
/** What is under way when the node stops has so long; the rest is tried again by another. */
const STOP_MS = 2_000;

/** What became of tries: `failed` is tried again, `given_up` not, `dropped` had no place in a full backlog. */
export const DELIVERY_RESULTS = ["delivered", "failed", "given_up", "dropped"] as const;
export type DeliveryResult = (typeof DELIVERY_RESULTS)[number];

export interface DeliveriesParts {
  readonly shard: ShardId;
  readonly store: Pick<BookingStore, "takeDeliveries" | "settleDeliveries">;
  readonly sender: Pick<WebhookSender, "send" | "close">;
  /** Whether the shard's database took a write at the last check; else there is nothing to do. */
  readonly databaseUp: () => boolean;
  readonly counted: (result: DeliveryResult, deliveries: number) => void;
  /** Changes were dropped from the log before they were read for webhooks. */
  readonly skipped: () => void;
  readonly log: Log;
  /** Tests give it. */
  readonly scheduleSeconds?: readonly number[];
}

export class WebhookDeliveries {
  readonly #parts: DeliveriesParts;
  readonly #schedule: readonly number[];
  readonly #outage: Outage;
  readonly #underWay = new Map<Delivery, Promise<void>>();
  #settled: Settled[] = [];
  #ended = Promise.withResolvers<void>();
  #running: Repeated | undefined;
  #stopping = false;
  /** By `performance.now()`. */
  #gathersAgainAt = 0;
  #waiting = 0;

  constructor(parts: DeliveriesParts) {
    this.#parts = parts;
    this.#schedule = parts.scheduleSeconds ?? SCHEDULE_SECONDS;
    this.#outage = new Outage(parts.log, "the shard's database for webhooks");
  }

  /** Deliveries of the shard that are not made yet, at the last look. */
  get waiting(): number {
    return this.#waiting;
  }

  start(): void {
    this.#running = repeat(
      async () => {
        if (this.#parts.databaseUp()) await this.#turn();
        else await this.#pause();
      },
      SOON_MS,
      (error) => this.#outage.failed(error),
    );
  }

  /** Takes no more, and keeps what ends within a moment. */
  async stop(): Promise<void> {
    this.#stopping = true;
    this.#ended.resolve();
    await this.#running?.stop();
    await Promise.race([Promise.all(this.#underWay.values()), pause(STOP_MS)]);
    await this.#parts.sender.close();
    await this.#keep().catch(() => undefined);
  }

  /** Until a try has ended, or a moment has passed. */
  async #pause(): Promise<void> {
    await Promise.race([this.#ended.promise, pause(TURN_MS)]);
  }

  /** Throws DatabaseError, not at once. */
  async #turn(): Promise<void> {
    try {
      await this.#takeTurn();
    } catch (error) {
      await pause(TURN_MS);
      throw error;
    }
  }

  async #takeTurn(): Promise<void> {
    await this.#keep();
    if (this.#stopping) return;
    const underWay = [...this.#underWay.keys()].map(({ webhook }) => webhook);
    const failing = underWay.filter((webhook) => webhook.failing).length;
    const hosts = Map.groupBy(underWay, ({ host }) => host);
    const taken = await this.#parts.store.takeDeliveries({
      gatherMax: performance.now() < this.#gathersAgainAt ? 0 : GATHER_MAX,
      max: TRIES_MAX - (underWay.length - failing),
      failingMax: FAILING_TRIES_MAX - failing,
      hostMax: HOST_TRIES_MAX,
      underWay: new Map([...hosts].map(([host, webhooks]) => [host, webhooks.length])),
      seconds: TAKEN_SECONDS,
    });
    this.#outage.worked();
    this.#waiting = taken.waiting;
    this.#noteGathered(taken.gathered);
    this.#ended = Promise.withResolvers();
    for (const delivery of taken.deliveries)
      this.#underWay.set(
        delivery,
        this.#try(delivery).then(() => {
          this.#underWay.delete(delivery);
          this.#ended.resolve();
        }),
      );
    const isMore = (taken.gathered?.count ?? 0) > 0;
    if (!isMore && this.#settled.length === 0) await this.#pause();
  }

  #noteGathered(gathered: Taken["gathered"]): void {
    if (gathered === null) return;
    const { counted, skipped, log } = this.#parts;
    this.#gathersAgainAt = performance.now() + (gathered.count * 1_000) / GATHERED_PER_SECOND_MAX;
    if (gathered.skipped) {
      log.error("changes were dropped before webhooks were told of them");
      skipped();
    }
    for (const { id, eventId, count } of gathered.dropped) {
      log.warn(
        { webhook: id, eventId, deliveries: count },
        "the backlog of a webhook is full; its oldest deliveries are given up",
      );
      counted("dropped", count);
    }
  }

  async #try(delivery: Delivery): Promise<void> {
    const { shard, sender, counted, log } = this.#parts;
    const { webhook, tries, change } = delivery;
    const [told] = toldOf(shard, change);
    invariant(told !== undefined, "a delivery tells one thing", { position: change.position });
    const { cloudEvent } = told;
    const { id } = cloudEvent;
    const { url, secret } = webhook;
    const failure = await sender.send({ url, secret, id, body: JSON.stringify(cloudEvent) });
    const next = failure === undefined ? 0 : (this.#schedule[tries - 1] ?? null);
    this.#settled.push({ delivery, next });
    counted(next === 0 ? "delivered" : next === null ? "given_up" : "failed", 1);
    if (next === null)
      log.warn(
        { webhook: webhook.id, eventId: webhook.eventId, id, tries, reason: failure },
        "a webhook was not told of a change; given up",
      );
  }

  async #keep(): Promise<void> {
    const settled = this.#settled;
    if (settled.length === 0) return;
    this.#settled = [];
    try {
      await this.#parts.store.settleDeliveries(settled);
    } catch (error) {
      this.#settled.unshift(...settled);
      throw error;
    }
  }
}

async function pause(ms: number): Promise<void> {
  await sleep(ms, undefined, { ref: false });
}
