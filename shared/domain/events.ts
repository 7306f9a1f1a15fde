/** An event and its snapshots. Times are RFC 3339 in UTC, as clients see them. */
import { z } from "zod";
import { type EventId, idOf } from "./ids.ts";

export const EVENT_STATUSES = ["on_sale", "paused", "closed"] as const;

export const eventSchema = z.object({
  id: idOf<EventId>(),
  name: z.string(),
  venue: z.string().nullable(),
  startsAt: z.string(),
  salesStartAt: z.string().nullable(),
  salesEndAt: z.string().nullable(),
  status: z.enum(EVENT_STATUSES),
  totalTickets: z.number(),
  availableTickets: z.number(),
  maxPerUser: z.number(),
  /** Rises by one with every committed batch that changed the event; the order of all caches. */
  version: z.number(),
  createdAt: z.string(),
  updatedAt: z.string(),
});
export type Event = Readonly<z.infer<typeof eventSchema>>;

export const snapshotSchema = z.object({
  event: eventSchema,
  /** When the event is sold out: the moment at which a hold's tickets come back on their own, if any are held. */
  nextHoldExpiresAt: z.string().nullable(),
});
/** An event at one version, as caches hold it. */
export type Snapshot = Readonly<z.infer<typeof snapshotSchema>>;

/** Those that are snapshots. A snapshot only saves a read, so a malformed one counts as absent. */
export function snapshotsAmong(items: readonly unknown[]): Snapshot[] {
  return items.flatMap((item) => snapshotSchema.safeParse(item).data ?? []);
}
