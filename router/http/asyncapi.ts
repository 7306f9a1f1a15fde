/** The AsyncAPI document: what nodes publish to the broker (shard-node/queue/change-publisher.ts). */
import { z } from "zod";
import {
  CLOUD_EVENT_TYPE,
  CLOUD_EVENT_TYPES,
  cloudEventAttributes,
  type CloudEventType,
  EVENT_EVENT_TYPES,
} from "../../shared/domain/cloud-events.ts";
import { CHANGES_EXCHANGE } from "../../shared/queue/queues.ts";

const SUMMARIES: Readonly<Record<CloudEventType, string>> = {
  "onsale.booking.held.v1": "Tickets are held for a user.",
  "onsale.booking.confirmed.v1": "Tickets are booked, at once or by confirming a hold.",
  "onsale.booking.cancelled.v1": "A booking or a hold was cancelled.",
  "onsale.booking.expired.v1": "A hold has ended without being confirmed.",
  "onsale.event.created.v1": "An organizer has created an event.",
  "onsale.event.changed.v1": "An organizer has changed an event.",
};

/** AsyncAPI 3.0. The schemas of an event and of a booking are those of the OpenAPI document. */
export function asyncApiOf(title: string, schemas: Readonly<Record<string, object>>): object {
  const { Event, Booking } = schemas;
  return {
    asyncapi: "3.0.0",
    info: {
      title,
      version: "1",
      description:
        "What has changed, as CloudEvents 1.0 in structured mode, where the cluster has a broker. Bind a queue to the exchange to hear of it: " +
        "under `onsale.booking.#` of all bookings, under `#.{eventId}` of one event. Each comes at least once, and those of one event in " +
        "order: what has a known `id` is a repetition.",
    },
    defaultContentType: CLOUD_EVENT_TYPE,
    channels: {
      changes: {
        address: "{type}.{eventId}",
        description: "A topic exchange; the address is the routing key.",
        parameters: {
          type: { enum: CLOUD_EVENT_TYPES, description: "The type of the CloudEvent." },
          eventId: { description: "The event that is changed, or booked." },
        },
        messages: Object.fromEntries(
          CLOUD_EVENT_TYPES.map((type) => [type, { $ref: `#/components/messages/${type}` }]),
        ),
        bindings: {
          amqp: {
            is: "routingKey",
            exchange: { name: CHANGES_EXCHANGE, type: "topic", durable: true, autoDelete: false },
            bindingVersion: "0.3.0",
          },
        },
      },
    },
    operations: {
      publishChange: {
        action: "send",
        channel: { $ref: "#/channels/changes" },
        bindings: { amqp: { deliveryMode: 2, bindingVersion: "0.3.0" } },
      },
    },
    components: {
      messages: Object.fromEntries(CLOUD_EVENT_TYPES.map((type) => [type, messageOf(type)])),
      schemas: { Event, Booking },
    },
  };
}

function messageOf(type: CloudEventType): object {
  const isOfEvent = EVENT_EVENT_TYPES.some((each) => each === type);
  const attributes = z.toJSONSchema(cloudEventAttributes.extend({ type: z.literal(type) }), {
    target: "draft-7",
  });
  const { $schema: _, properties = {}, required = [], ...rest } = attributes;
  return {
    name: type,
    summary: SUMMARIES[type],
    payload: {
      ...rest,
      required: [...required, "data"],
      properties: {
        ...properties,
        data: { $ref: `#/components/schemas/${isOfEvent ? "Event" : "Booking"}` },
      },
    },
  };
}
