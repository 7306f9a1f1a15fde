/** Webhooks and their deliveries in the shard's database (migrations/shard/0017_webhooks.sql). */
import type { Database } from "../../shared/database/database.ts";
import type { Change } from "../../shared/domain/changes.ts";
import type { EventId } from "../../shared/domain/ids.ts";
import { slotOf } from "../../shared/domain/slots.ts";
import type { Span } from "../../shared/watch/tracing.ts";
import type { WebhooksRequest, WebhooksResult } from "../../shared/wire/rpc.ts";
import { changeFrom, type ChangeRow } from "./change-log.ts";
import { bounded, boundsOf, oneRow } from "./row-locks.ts";

const STATEMENTS = {
  create: bounded("create-webhook", "create_webhook($3, $4, $5, $6, $7, $8, $9, $10)"),
  list: bounded("list-webhooks", "list_webhooks($3, $4, $5)"),
  delete: bounded("delete-webhook", "delete_webhook($3, $4, $5, $6)"),
};
const TAKE_DELIVERIES = bounded("take-deliveries", "take_deliveries($3, $4, $5, $6, $7, $8, $9)");
const SETTLE_DELIVERIES = bounded("settle-deliveries", "settle_deliveries($3, $4, $5, $6)");

/** One webhook has to be told one thing. `change` has that only. */
export interface Delivery {
  readonly webhook: {
    readonly id: string;
    readonly eventId: EventId;
    readonly url: string;
    readonly host: string;
    readonly secret: string;
    /** Whether its last try failed. */
    readonly failing: boolean;
  };
  /** With the one that is made now. */
  readonly tries: number;
  readonly change: Change;
}

/** What became of a try. */
export interface Settled {
  readonly delivery: Delivery;
  /** After how many seconds there is another; 0: it was delivered; null: it is given up. */
  readonly next: number | null;
}

/** What to take, and how much. */
export interface Taking {
  /** New deliveries that are written from the log, about; 0 for none. */
  readonly gatherMax: number;
  /** Tries of webhooks that work, and of those whose last try failed. */
  readonly max: number;
  readonly failingMax: number;
  /** Tries at one host, with those that are under way. */
  readonly hostMax: number;
  readonly underWay: ReadonlyMap<string, number>;
  /** A try that is not settled by then is made again. */
  readonly seconds: number;
}

export interface Taken {
  readonly deliveries: readonly Delivery[];
  /** Deliveries that are not made yet. */
  readonly waiting: number;
  /** What was written from the log; null when it was not asked for, or another node did it. */
  readonly gathered: {
    readonly count: number;
    /** Changes were dropped from the log before they were read. */
    readonly skipped: boolean;
    /** Of webhooks whose backlog was full: how many of the oldest deliveries were given up. */
    readonly dropped: readonly { readonly id: string; readonly eventId: EventId; readonly count: number }[];
  } | null;
}

/** `host` is that of the URL of a new webhook. Throws DatabaseError. */
export async function changeWebhooks(
  database: Database,
  request: WebhooksRequest,
  host: string,
  span?: Span,
): Promise<WebhooksResult> {
  const { action, eventId, caller } = request;
  const values: unknown[] = [...boundsOf(database), eventId, slotOf(eventId), caller];
  if (action === "create") values.push(request.id, request.url, host, request.types, request.secret);
  if (action === "delete") values.push(request.id);
  const { result } = await oneRow<{ result: WebhooksResult }>(database, STATEMENTS[action], values, span);
  return result;
}

/** Throws DatabaseError. */
export async function takeDeliveries(
  database: Database,
  { gatherMax, max, failingMax, hostMax, underWay, seconds }: Taking,
): Promise<Taken> {
  const { result } = await oneRow<{
    result: Omit<Taken, "deliveries"> & { deliveries: (Omit<Delivery, "change"> & { change: ChangeRow })[] };
  }>(database, TAKE_DELIVERIES, [
    ...boundsOf(database),
    gatherMax,
    max,
    failingMax,
    hostMax,
    [...underWay.keys()],
    [...underWay.values()],
    seconds,
  ]);
  const deliveries = result.deliveries.map((delivery) => ({
    ...delivery,
    change: changeFrom(delivery.change),
  }));
  return { ...result, deliveries };
}

/** Throws DatabaseError. */
export async function settleDeliveries(database: Database, settled: readonly Settled[]): Promise<void> {
  await oneRow(database, SETTLE_DELIVERIES, [
    ...boundsOf(database),
    settled.map(({ delivery }) => delivery.webhook.id),
    settled.map(({ delivery }) => delivery.change.position),
    settled.map(({ delivery: { change } }) => change.bookings[0]?.id ?? change.event?.id),
    settled.map(({ next }) => next),
  ]);
}
