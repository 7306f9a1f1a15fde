/** An event and its snapshots. Times are RFC 3339 in UTC, as in the public API. */
import { z } from "zod";
import { type EventId, storedId, type UserId } from "./ids.ts";

export const EVENT_STATUSES = ["on_sale", "paused", "closed"] as const;
/** `queue`: every booking waits in the queue for its decision. */
export const INTAKES = ["direct", "queue"] as const;

export const eventSchema = z.object({
  id: storedId<EventId>(),
  /** The organizer who created it. Null when a version without owners did. */
  ownerId: storedId<UserId>().nullable(),
  name: z.string(),
  venue: z.string().nullable(),
  startsAt: z.string(),
  salesStartAt: z.string().nullable(),
  /** `startsAt` unless the organizer chose another end. */
  salesEndAt: z.string(),
  status: z.enum(EVENT_STATUSES),
  totalTickets: z.number(),
  availableTickets: z.number(),
  maxPerUser: z.number(),
  intake: z.enum(INTAKES),
  /** Each committed batch that changes the event raises it by one. Caches order snapshots by it. */
  version: z.number(),
  createdAt: z.string(),
  updatedAt: z.string(),
});
export type Event = Readonly<z.infer<typeof eventSchema>>;

export const snapshotSchema = z.object({
  event: eventSchema,
  /** Null unless the event is sold out and has holds. Then the moment when the first of them expires and frees tickets. */
  nextHoldExpiresAt: z.string().nullable(),
});
/** An event at one version, as caches hold it. */
export type Snapshot = Readonly<z.infer<typeof snapshotSchema>>;

/** Drops malformed items: a snapshot only saves a read. */
export function snapshotsAmong(items: readonly unknown[]): Snapshot[] {
  return items.flatMap((item) => snapshotSchema.safeParse(item).data ?? []);
}
