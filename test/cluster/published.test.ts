/** What nodes publish of their changes, over a real RabbitMQ, as those who bind a queue read it. */
import { Ajv } from "ajv";
import type { ConsumeMessage } from "amqplib";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { CloudEvent } from "../../shared/domain/cloud-events.ts";
import { CHANGES_EXCHANGE } from "../../shared/queue/queues.ts";
import { ORGANIZER } from "../support/commands.ts";
import { eventually } from "../support/eventually.ts";
import { hasRabbitmq, startTestRabbitmq, type TestRabbitmq } from "../support/rabbitmq.ts";
import {
  type Client,
  crowd,
  PATIENT,
  startTestCluster,
  tally,
  type TestCluster,
} from "../support/running-cluster.ts";

let rabbitmq: TestRabbitmq;
let cluster: TestCluster;
let client: Client;
/** All that was published. */
let published: readonly ConsumeMessage[];

describe.skipIf(!hasRabbitmq)("with RabbitMQ", () => {
  beforeAll(async () => {
    rabbitmq = await startTestRabbitmq();
    await rabbitmq.bind("all", CHANGES_EXCHANGE);
    published = await rabbitmq.consume("all");
    cluster = await startTestCluster({ shards: 1, env: { ...PATIENT, AMQP_URL: rabbitmq.amqpUrl } });
    client = cluster.client();
  });
  afterAll(async () => {
    await cluster?.[Symbol.asyncDispose]();
    await rabbitmq?.[Symbol.asyncDispose]();
  });

  test("J6: each change of an event and of a booking is published as a CloudEvent, with what the API answers", async () => {
    const event = await client.createEvent({ totalTickets: 7 });
    const booked = (await client.book(event.id, "ada", 2)).body;
    const held = (await client.hold(event.id, "bob")).body;
    const confirmed = (await client.confirm(held.id, "bob")).body;
    const cancelled = (await client.cancel(booked.id, "ada")).body;
    const options = { as: ORGANIZER, role: "organizer", body: { name: "Second night" } } as const;
    const renamed = (await client.send("PATCH", `/v1/events/${event.id}`, options)).body;

    const heard = await heardOf(event.id, 6);
    expect(heard.map(({ cloudEvent: { type, subject, data } }) => [type, subject, data])).toEqual([
      ["onsale.event.created.v1", event.id, event],
      ["onsale.booking.confirmed.v1", booked.id, booked],
      ["onsale.booking.held.v1", held.id, held],
      ["onsale.booking.confirmed.v1", held.id, confirmed],
      ["onsale.booking.cancelled.v1", booked.id, cancelled],
      ["onsale.event.changed.v1", event.id, renamed],
    ]);
    const { body: document } = await client.send<{ channels: object }>("GET", "/asyncapi.json");
    const ajv = new Ajv({ strict: false, formats: { "date-time": true, uuid: true } });
    ajv.addSchema(document, "asyncapi");
    for (const { cloudEvent, message } of heard) {
      const $ref = `asyncapi#/components/messages/${cloudEvent.type}/payload`;
      expect([ajv.validate({ $ref }, cloudEvent), ajv.errorsText()]).toEqual([true, "No errors"]);
      const { position } = /^shard-0\.(?<position>\d+)\./.exec(cloudEvent.id)?.groups ?? {};
      expect(cloudEvent).toEqual({
        specversion: "1.0",
        id: `shard-0.${position}.${cloudEvent.subject}`,
        source: `/v1/events/${event.id}`,
        type: cloudEvent.type,
        subject: cloudEvent.subject,
        time: cloudEvent.data.updatedAt,
        sequence: position?.padStart(16, "0"),
        datacontenttype: "application/json",
        data: cloudEvent.data,
      });
      expect(message.fields.routingKey).toBe(`${cloudEvent.type}.${event.id}`);
      expect(message.properties).toMatchObject({
        contentType: "application/cloudevents+json",
        messageId: cloudEvent.id,
        deliveryMode: 2,
      });
    }
  });

  test("J6 J7: two nodes publish a rush once, in the order of each event", async () => {
    const [shard] = cluster.shards;
    if (shard === undefined) throw new Error("the cluster has a shard");
    await cluster.addNode(shard);
    const events = await Promise.all([1, 2, 3].map(async () => client.createEvent({ totalTickets: 60 })));
    await crowd(Array.from({ length: 300 }), async (_, user) => {
      const booked = await client.book(events[user % 3]?.id ?? "", `user-${user}`);
      if (booked.status === 201 && user % 2 === 0) await client.cancel(booked.body.id, `user-${user}`);
    });

    for (const { id } of events) {
      const { availableTickets } = await client.readEvent(id);
      const heard = await eventually("all was published", async () => {
        const all = eventsOf(id);
        return all.reduce((left, each) => left - soldBy(each.cloudEvent), 60) === availableTickets && all;
      });
      const ids = heard.map(({ cloudEvent }) => cloudEvent.id);
      expect(new Set(ids).size).toBe(ids.length);
      const sequences = heard.map(({ cloudEvent }) => cloudEvent.sequence);
      expect(sequences).toEqual(sequences.toSorted());
    }
  });

  test("J7: while a queue refuses, nobody who books waits, and all is published in order once it takes more", async () => {
    await rabbitmq.bind("slow", CHANGES_EXCHANGE, "#", { "x-max-length": 2, "x-overflow": "reject-publish" });
    const event = await client.createEvent({ totalTickets: 40 });
    const booked = await crowd(Array.from({ length: 20 }), async (_, user) =>
      client.book(event.id, `slow-${user}`),
    );
    for (let user = 0; user < 20; user += 1) await client.cancel(booked[user]?.body.id ?? "", `slow-${user}`);
    expect(tally(booked.map(({ status }) => status))).toEqual({ 201: 20 });
    await eventually("it refuses", async () => figure('onsale_changes_published_total{result="refused"}'));
    await eventually("it is seen", async () => await figure("onsale_publisher_lag_seconds"));

    const taken = await rabbitmq.consume("slow");
    // What was refused comes again, also to a queue that has it already.
    const ids = (heard: Parameters<typeof ofEvent>[0]) =>
      new Set(ofEvent(heard, event.id).map(({ cloudEvent }) => cloudEvent.id));
    await eventually("all of it came", () => ids(taken).size === 41 && ids(published).size === 41);
    await eventually("what was refused came again", () => ofEvent(published, event.id).length > 41);

    const [slow, others] = [ofEvent(taken, event.id), ofEvent(published, event.id)];
    for (const heard of [slow, others]) {
      const firsts = [...new Map(heard.map(({ cloudEvent }) => [cloudEvent.id, cloudEvent])).values()];
      const sequences = firsts.map(({ sequence }) => sequence);
      expect(sequences).toEqual(sequences.toSorted());
      expect(tally(firsts.map(({ type }) => type))).toEqual({
        "onsale.event.created.v1": 1,
        "onsale.booking.confirmed.v1": 20,
        "onsale.booking.cancelled.v1": 20,
      });
    }
    // What the other queue got again, it got under the same id.
    const contents = new Map(others.map(({ cloudEvent }) => [cloudEvent.id, JSON.stringify(cloudEvent)]));
    for (const { cloudEvent } of others) expect(contents.get(cloudEvent.id)).toBe(JSON.stringify(cloudEvent));
    await eventually("nothing is behind", async () => (await figure("onsale_publisher_lag_seconds")) === 0);
  });

  test("J7: while RabbitMQ blocks whoever publishes, nobody who books waits, and nothing is lost", async () => {
    const event = await client.createEvent();
    await heardOf(event.id, 1);
    await rabbitmq.control("set_vm_memory_high_watermark", "0.000001");
    // It blocks a connection that publishes, so the first one may have left.
    const before = (await client.book(event.id, "first")).body;
    await eventually("it is seen", async () => await figure("onsale_publisher_lag_seconds"));
    const booked = await client.book(event.id, "ada");
    expect(booked.status).toBe(201);
    expect(ofEvent(published, event.id).length).toBeLessThanOrEqual(2);

    await rabbitmq.control("set_vm_memory_high_watermark", "0.6");

    const ids = await eventually("both came", async () => {
      const heard = new Set(ofEvent(published, event.id).map(({ cloudEvent }) => cloudEvent.subject));
      return heard.size === 3 && heard;
    });
    expect([...ids]).toEqual([event.id, before.id, booked.body.id]);
  });
});

function eventsOf(id: string) {
  return ofEvent(published, id);
}

async function heardOf(id: string, count: number) {
  return eventually(`${count} messages came`, () => {
    const heard = eventsOf(id);
    return heard.length >= count && heard;
  });
}

function ofEvent(messages: readonly ConsumeMessage[], id: string) {
  return messages
    .filter(({ fields }) => fields.routingKey.endsWith(`.${id}`))
    .map((message) => ({ message, cloudEvent: JSON.parse(message.content.toString()) as CloudEvent }));
}

function soldBy({ data }: CloudEvent): number {
  if (!("quantity" in data)) return 0;
  return data.status === "cancelled" ? -data.quantity : data.quantity;
}

/** A metric of the first node. */
async function figure(name: string): Promise<number> {
  const text = await (await fetch(`${cluster.nodes[0]?.adminUrl}/metrics`)).text();
  const line = text.split("\n").find((each) => each.startsWith(`${name} `));
  return Number(line?.slice(name.length));
}
