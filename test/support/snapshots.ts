/** An event's snapshot, for tests of what keeps and compares them. */
import type { EventId } from "../../shared/domain/ids.ts";
import type { Event, Snapshot } from "../../shared/domain/events.ts";

/** The event of `snapshot`, when no other is asked for. */
export const SNAPSHOT_ID = "01a20409-0c00-7c2b-af63-0abca586c6cb" as EventId;

/** Five of ten tickets are left in it, and it is named after its version. */
export function snapshot(
  version: number,
  fields: Partial<Event> = {},
  nextHoldExpiresAt: string | null = null,
): Snapshot {
  const event: Event = {
    id: SNAPSHOT_ID,
    ownerId: null,
    name: `version ${version}`,
    venue: null,
    startsAt: "2030-01-01T00:00:00.000Z",
    salesStartAt: null,
    salesEndAt: "2030-01-01T00:00:00.000Z",
    status: "on_sale",
    totalTickets: 10,
    availableTickets: 5,
    maxPerUser: 2,
    intake: "direct",
    version,
    createdAt: "2026-01-01T00:00:00.000Z",
    updatedAt: "2026-01-01T00:00:00.000Z",
    ...fields,
  };
  return { event, nextHoldExpiresAt };
}
