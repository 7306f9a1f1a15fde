/**
 * What others are told of a change: CloudEvents 1.0 (https://github.com/cloudevents/spec), one for each booking that is new or
 * has another status, and one for each event that was created or changed by its organizer. Their data are what the public API
 * answers. A new form of a type is a new version of its name.
 */
import { z } from "zod";
import { type Booking, BOOKING_STATUSES } from "./bookings.ts";
import type { Change } from "./changes.ts";
import type { Event } from "./events.ts";
import type { EventId, ShardId } from "./ids.ts";

const BOOKING_TYPES = {
  held: "onsale.booking.held.v1",
  confirmed: "onsale.booking.confirmed.v1",
  cancelled: "onsale.booking.cancelled.v1",
  expired: "onsale.booking.expired.v1",
} as const satisfies Record<Booking["status"], string>;

const BOOKING_EVENT_TYPES = BOOKING_STATUSES.map((status) => BOOKING_TYPES[status]);
export const EVENT_EVENT_TYPES = ["onsale.event.created.v1", "onsale.event.changed.v1"] as const;

/** The media type of one in structured mode (CloudEvents JSON format §3). */
export const CLOUD_EVENT_TYPE = "application/cloudevents+json";

export const CLOUD_EVENT_TYPES = [...BOOKING_EVENT_TYPES, ...EVENT_EVENT_TYPES] as const;
export type CloudEventType = (typeof CLOUD_EVENT_TYPES)[number];

/** All of one but its data. */
export const cloudEventAttributes = z.object({
  specversion: z.literal("1.0"),
  id: z
    .string()
    .describe(
      "What changed, at which position of which shard. Told again, a change has the same id and content.",
    ),
  source: z.string().describe("The event, as its address in the API."),
  type: z.enum(CLOUD_EVENT_TYPES),
  subject: z.string().describe("The id of the booking or of the event."),
  time: z.iso.datetime().describe("When it changed."),
  sequence: z
    .string()
    .describe("Orders what is told of one event, as text. What changed at once has one sequence."),
  datacontenttype: z.literal("application/json"),
});
export type CloudEvent = Readonly<z.infer<typeof cloudEventAttributes>> & { readonly data: Booking | Event };

/** One with the event that it is about. */
export interface Told {
  readonly eventId: EventId;
  readonly cloudEvent: CloudEvent;
}

/** What is told of a change. The order of its parts means nothing: they changed at once. */
export function toldOf(shard: ShardId, { position, at, event, bookings }: Change): readonly Told[] {
  const told = (eventId: EventId, type: CloudEventType, data: Booking | Event): Told => ({
    eventId,
    cloudEvent: {
      specversion: "1.0",
      id: `${shard}.${position}.${data.id}`,
      source: `/v1/events/${eventId}`,
      type,
      subject: data.id,
      time: at,
      sequence: sequenceOf(position),
      datacontenttype: "application/json",
      data,
    },
  });
  return [
    ...(event === null ? [] : [told(event.id, EVENT_EVENT_TYPES[event.version === 1 ? 0 : 1], event)]),
    ...bookings.map((booking) => told(booking.eventId, BOOKING_TYPES[booking.status], booking)),
  ];
}

/** A position is a safe integer, of sixteen digits at most. */
function sequenceOf(position: number): string {
  return String(position).padStart(16, "0");
}
