/** Booking requests over a real RabbitMQ: accepted by a router, decided by a node, and shown by their receipts. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { newBookingId, type EventId, type ShardId } from "../../shared/domain/ids.ts";
import type { RequestCommand } from "../../shared/domain/commands.ts";
import { slotOf } from "../../shared/domain/slots.ts";
import { messageOf } from "../../shared/queue/message.ts";
import { DEAD_QUEUE, queueOf } from "../../shared/queue/queues.ts";
import type { Booking } from "../../shared/domain/bookings.ts";
import { bookCommand, ORGANIZER } from "../support/commands.ts";
import { connectTo, lockEvent } from "../support/databases.ts";
import { eventually } from "../support/eventually.ts";
import { hasRabbitmq, startTestRabbitmq, type TestRabbitmq } from "../support/rabbitmq.ts";
import {
  type Answer,
  type Client,
  crowd,
  PATIENT,
  type ProblemBody,
  startTestCluster,
  tally,
  type TestCluster,
  tokenOf,
} from "../support/running-cluster.ts";

const ASYNC = { prefer: "respond-async" };

interface Request {
  readonly receipt: string;
  readonly bookingId: string;
  readonly eventId: string;
  readonly quantity: number;
  readonly kind: string;
  readonly status: "queued" | "decided" | "lapsed";
  readonly acceptedAt: string;
  readonly ahead: number | null;
  readonly booking?: Booking;
  readonly problem?: ProblemBody;
}

let rabbitmq: TestRabbitmq;
beforeAll(async () => {
  if (hasRabbitmq) rabbitmq = await startTestRabbitmq();
});
afterAll(async () => rabbitmq?.[Symbol.asyncDispose]());

describe.skipIf(!hasRabbitmq)("with RabbitMQ", () => {
  let cluster: TestCluster;
  let client: Client;

  beforeAll(async () => {
    cluster = await startTestCluster({ shards: 2, env: { ...PATIENT, AMQP_URL: rabbitmq.amqpUrl } });
    client = cluster.client();
    await queueIsUp(cluster);
  });
  // The next cluster's shards have the same names, and so the same queues.
  afterAll(async () => cluster?.[Symbol.asyncDispose]());

  const request = async (event: string, as: string, quantity = 1, headers: Record<string, string> = {}) =>
    client.send<Request>("POST", `/v1/events/${event}/bookings`, {
      as,
      body: { quantity },
      headers: { ...ASYNC, ...headers },
    });

  const read = async (receipt: string, as: string) =>
    client.send<Request & ProblemBody>("GET", `/v1/booking-requests/${receipt}`, { as });

  const outcome = async (accepted: Answer<Request>, as: string): Promise<Request> =>
    eventually("it is decided", async () => {
      const { body } = await read(accepted.body.receipt, as);
      return body.status !== "queued" && body;
    });

  const openStream = async (receipt: string, as: string): Promise<Response> =>
    fetch(`${client.url}/v1/booking-requests/${receipt}`, {
      headers: { accept: "text/event-stream", authorization: `Bearer ${await tokenOf(as)}` },
    });

  test("Q1: who prefers not to wait gets a receipt, and the receipt the booking", async () => {
    const event = await client.createEvent({ maxPerUser: 5 });

    const accepted = await request(event.id, "ada", 2);

    const { receipt, bookingId, acceptedAt } = accepted.body;
    expect(accepted.status).toBe(202);
    expect(Object.fromEntries(accepted.headers)).toMatchObject({
      location: `/v1/booking-requests/${receipt}`,
      "preference-applied": "respond-async",
      "retry-after": "1",
    });
    expect(accepted.body).toEqual({
      receipt,
      bookingId,
      eventId: event.id,
      quantity: 2,
      kind: "book",
      status: "queued",
      acceptedAt,
      ahead: null,
    });
    const decided = await outcome(accepted, "ada");
    const { body: booking } = await client.readBooking(bookingId, "ada");
    expect(booking).toMatchObject({ id: bookingId, quantity: 2, status: "confirmed" });
    expect(decided).toEqual({ ...accepted.body, status: "decided", booking });
    expect((await read(receipt, "ada")).headers.get("cache-control")).toBe("no-store");
  });

  test("Q1: a hold waits as a booking does", async () => {
    const event = await client.createEvent();
    const options = {
      as: "ada",
      body: { quantity: 1, ttlSeconds: 60 },
      headers: { prefer: "wait=5, Respond-Async" },
    };
    const accepted = await client.send<Request>("POST", `/v1/events/${event.id}/holds`, options);

    expect([accepted.status, accepted.body.kind]).toEqual([202, "hold"]);
    expect(await outcome(accepted, "ada")).toMatchObject({ booking: { status: "held" } });
  });

  test("Q1 Q5: a refusal is the problem document that the direct path gives", async () => {
    const event = await client.createEvent({ totalTickets: 3, maxPerUser: 2 });
    const key = { "idempotency-key": "order-17" };
    await outcome(await request(event.id, "ada", 2, key), "ada");

    for (const [as, quantity, headers, code] of [
      ["ada", 1, {}, "user_limit_exceeded"],
      ["ada", 1, key, "idempotency_key_reused"],
      ["bob", 2, {}, "insufficient_tickets"],
    ] as const) {
      const { problem } = await outcome(await request(event.id, as, quantity, headers), as);
      const direct = await client.book(event.id, as, quantity, headers);
      expect(problem?.code).toBe(code);
      expect({ ...problem, requestId: "" }).toEqual({ ...direct.body, requestId: "" });
    }
    const again = await outcome(await request(event.id, "ada", 2, key), "ada");
    expect(again.booking).toMatchObject({ userId: "ada", quantity: 2 });
    expect((await client.readEvent(event.id)).availableTickets).toBe(1);
  });

  test("Q1: what is no valid booking, and whose caller may not book, is refused before the queue", async () => {
    const event = await client.createEvent();
    const path = `/v1/events/${event.id}/bookings`;
    const send = async (options: object) =>
      (await client.send("POST", path, { headers: ASYNC, ...options })).body.code;

    expect(await send({ as: "ada", body: { quantity: 0 } })).toBe("invalid_request");
    expect(await send({ body: { quantity: 1 } })).toBe("unauthenticated");
    expect(await send({ as: ORGANIZER, role: "organizer", body: { quantity: 1 } })).toBe("forbidden");
    const unknown = await request("01a20409-0c00-7c2b-af63-0abca586c6cb", "ada");
    expect((unknown.body as unknown as ProblemBody).code).toBe("event_not_found");
  });

  test("Q1 S9: the owner of an event puts all its bookings into the queue, and takes them out again", async () => {
    const event = await client.createEvent();
    expect(event.intake).toBe("direct");
    const patch = async (intake: string, as: string = ORGANIZER) =>
      client.send<typeof event & ProblemBody>("PATCH", `/v1/events/${event.id}`, {
        as,
        role: "organizer",
        body: { intake },
      });

    expect((await patch("queue", "a-stranger")).body.code).toBe("forbidden");
    expect((await patch("elsewhere")).body.code).toBe("invalid_request");
    expect((await patch("queue")).body.intake).toBe("queue");
    const accepted = await client.book(event.id, "ada");
    expect(accepted.status).toBe(202);
    expect(accepted.headers.get("preference-applied")).toBeNull();
    expect(await outcome(accepted as unknown as Answer<Request>, "ada")).toMatchObject({
      booking: { status: "confirmed" },
    });

    expect((await patch("direct")).body.intake).toBe("direct");
    expect((await client.book(event.id, "bob")).status).toBe(201);
  });

  test("Q6: a receipt is its user's alone, and nobody can make one", async () => {
    const event = await client.createEvent();
    const {
      body: { receipt, bookingId },
    } = await request(event.id, "ada");
    const changed = receipt.slice(0, -1) + (receipt.endsWith("A") ? "B" : "A");

    for (const [text, as] of [
      [receipt, "bob"],
      [changed, "ada"],
      [receipt.slice(1), "ada"],
      [bookingId, "ada"],
      ["%00", "ada"],
    ] as const) {
      const answer = await read(text, as);
      expect([text, answer.status, answer.body.code]).toEqual([text, 404, "booking_request_not_found"]);
    }
    expect((await client.send("GET", `/v1/booking-requests/${receipt}`)).body.code).toBe("unauthenticated");
    // Any router knows it, one that has just begun too.
    const other = cluster.client(await cluster.addRouter());
    const answer = await other.send<Request>("GET", `/v1/booking-requests/${receipt}`, { as: "ada" });
    expect([answer.status, answer.body.bookingId]).toEqual([200, bookingId]);
  });

  test("Q7: a stream gives the request at once and when it is decided, and ends", async () => {
    const event = await client.createEvent();
    const database = cluster.shards[Math.floor((slotOf(event.id) * 2) / 4096)]?.databaseUrl ?? "";
    using lock = await lockEvent(database, event.id);
    const {
      body: { receipt },
    } = await request(event.id, "ada");

    const stream = await openStream(receipt, "ada");
    const events = eventsOf(stream);
    expect(stream.headers.get("content-type")).toBe("text/event-stream; charset=utf-8");
    expect((await events.next()).value).toMatchObject({ receipt, status: "queued" });
    lock[Symbol.dispose]();

    let last: Request | undefined;
    for await (const value of events) last = value;
    expect(last).toMatchObject({ status: "decided", booking: { userId: "ada" } });
  });

  test("Q7: a user has few streams open, one that is closed makes place for another, and a HEAD takes none", async () => {
    const event = await client.createEvent();
    const database = cluster.shards[Math.floor((slotOf(event.id) * 2) / 4096)]?.databaseUrl ?? "";
    using _lock = await lockEvent(database, event.id);
    const {
      body: { receipt },
    } = await request(event.id, "eve");
    const headers = { accept: "text/event-stream" };
    for (let count = 0; count < 5; count += 1)
      expect(
        (await client.send("HEAD", `/v1/booking-requests/${receipt}`, { as: "eve", headers })).status,
      ).toBe(200);
    const open = await Promise.all(Array.from({ length: 4 }, async () => openStream(receipt, "eve")));
    const refused = await openStream(receipt, "eve");

    expect(open.map(({ status }) => status)).toEqual([200, 200, 200, 200]);
    expect([refused.status, ((await refused.json()) as ProblemBody).code]).toEqual([429, "rate_limited"]);
    await open[0]?.body?.cancel();
    const next = await eventually("a place is free", async () => {
      const stream = await openStream(receipt, "eve");
      return stream.status === 200 && stream;
    });
    for (const stream of [...open.slice(1), next]) await stream.body?.cancel();
  });

  test("Q4: requests of one event are decided in the order in which the queue accepted them", async () => {
    const event = await client.createEvent({ totalTickets: 500, maxPerUser: 1 });
    const accepted: Answer<Request>[] = [];
    // Eight at a time, each group after the one before: within a group nobody can tell who was first.
    for (let group = 0; group < 80; group += 1)
      accepted.push(
        ...(await Promise.all(users(8, `q4-${group}-`).map(async (user) => request(event.id, user)))),
      );
    const decided = await Promise.all(
      accepted.map(async (answer, index) => outcome(answer, `q4-${Math.floor(index / 8)}-${index % 8}`)),
    );

    expect(tally(accepted.map(({ status }) => status))).toEqual({ 202: 640 });
    const granted = decided.map(({ booking }) => booking !== undefined);
    expect(granted.filter(Boolean)).toHaveLength(500);
    // 500 tickets are 62 groups and a half.
    expect(granted.slice(0, 62 * 8).every(Boolean)).toBe(true);
    expect(granted.slice(63 * 8).some(Boolean)).toBe(false);
  });

  test("Q4: an event whose row somebody has locked keeps its order, and events of other groups do not wait", async () => {
    const event = await client.createEvent({ totalTickets: 20, maxPerUser: 1 });
    const other = await eventually("an event of another group", async () => {
      const created = await client.createEvent();
      return slotOf(created.id) % 8 !== slotOf(event.id) % 8 && created;
    });
    const database = cluster.shards[Math.floor((slotOf(event.id) * 2) / 4096)]?.databaseUrl ?? "";
    using lock = await lockEvent(database, event.id);
    const accepted: Answer<Request>[] = [];
    for (const user of users(30, "locked-")) accepted.push(await request(event.id, user));
    expect(await outcome(await request(other.id, "ada"), "ada")).toMatchObject({ status: "decided" });
    expect((await read(accepted[29]?.body.receipt ?? "", "locked-29")).body).toMatchObject({
      status: "queued",
    });
    lock[Symbol.dispose]();

    const decided = await Promise.all(
      accepted.map(async (answer, index) => outcome(answer, `locked-${index}`)),
    );
    expect(decided.map(({ booking }) => booking !== undefined)).toEqual(
      decided.map((_, index) => index < 20),
    );
  });

  test("Q4: a request whose slot has moved goes on to the new owner", async () => {
    const event = await client.createEvent();
    const slot = slotOf(event.id);
    const owner = Math.floor((slot * 2) / 4096);
    const wrong = `shard-${1 - owner}` as ShardId;

    await rabbitmq.put(queueOf(wrong, slot), messageOf([requestOf(event.id, "ada")]).toString());

    const booking = await eventually("the owner has decided it", async () =>
      bookingOf(cluster, owner, event.id),
    );
    expect(booking).toMatchObject({ user_id: "ada", status: "confirmed" });
  });

  test("Q8: a message that nobody can read goes to the dead letters with its reason, and those behind it are decided", async () => {
    const event = await client.createEvent();
    const queue = queueOf(`shard-${Math.floor((slotOf(event.id) * 2) / 4096)}` as ShardId, slotOf(event.id));
    const good = requestOf(event.id, "ada");
    const unreadable = [
      "{",
      '{"version":2}',
      JSON.stringify({ version: 1, requests: [{ ...good, slot: (good.slot + 8) % 4096 }] }),
    ];

    for (const content of unreadable) await rabbitmq.put(queue, content);
    expect(await outcome(await request(event.id, "bob"), "bob")).toMatchObject({ status: "decided" });

    const buried = [];
    for (const _ of unreadable)
      buried.push(await eventually("it is there", async () => rabbitmq.take(DEAD_QUEUE)));
    expect(buried.map(({ content, headers }) => [content, headers])).toEqual([
      [unreadable[0], { queue, reason: "it is not JSON" }],
      [unreadable[1], { queue, reason: "its version is 2, not 1" }],
      [unreadable[2], { queue, reason: "its ids are of other slots" }],
    ]);
    const metrics = await Promise.all(
      cluster.nodes.map(async ({ adminUrl }) => (await fetch(`${adminUrl}/metrics`)).text()),
    );
    expect(metrics.join("\n")).toMatch(/onsale_queue_requests_total\{result="dead"\} [3-9]/);
  });
});

describe.skipIf(!hasRabbitmq)("with RabbitMQ and a cluster of its own", () => {
  test("Q2 Q3 Q8: while its shard is away, requests are accepted; then each is decided, or lapses if it waited too long", async () => {
    const env = { AMQP_URL: rabbitmq.amqpUrl, QUEUE_MAX_AGE_SECONDS: "5" };
    await using cluster = await startTestCluster({ shards: 1, env });
    const [client, shard] = [cluster.client(), cluster.shards[0]];
    const event = await client.createEvent({ totalTickets: 50, maxPerUser: 1 });
    await queueIsUp(cluster);
    const accept = async (user: string) =>
      client.send<Request>("POST", `/v1/events/${event.id}/bookings`, {
        as: user,
        body: { quantity: 1 },
        headers: ASYNC,
      });
    const read = async (receipt: string, as: string) =>
      (await client.send<Request>("GET", `/v1/booking-requests/${receipt}`, { as })).body;
    if (shard === undefined) throw new Error("there is a shard");

    const [node] = cluster.nodes.splice(0);
    const { port } = new URL(node?.url ?? "");
    await node?.close();
    const late = await crowd(users(20, "late-"), accept);
    expect(tally(late.map(({ status }) => status))).toEqual({ 202: 20 });
    await eventually(
      "they are too old",
      () => Date.now() - Date.parse(late[19]?.body.acceptedAt ?? "") > 5_500,
    );
    const inTime = await crowd(users(20, "in-time-"), accept);
    expect(tally(inTime.map(({ status }) => status))).toEqual({ 202: 20 });
    await rabbitmq.limit(queueOf(shard.id, slotOf(event.id)), 10);
    const tooMany = await eventually("the queue is full", async () => {
      const answer = await accept("one-too-many");
      return answer.status !== 202 && (answer as unknown as Answer<ProblemBody>);
    });
    expect([tooMany.status, tooMany.body.code, tooMany.headers.get("retry-after")]).toEqual([
      503,
      "overloaded",
      "1",
    ]);
    await cluster.addNode(shard, { PORT: port });

    const states = async (accepted: readonly Answer<Request>[], name: string) =>
      eventually("none is queued", async () => {
        const all = await Promise.all(
          accepted.map(async ({ body }, index) => read(body.receipt, `${name}${index}`)),
        );
        return (
          all.every(({ status }) => status === "decided" || status === "lapsed") &&
          tally(all.map(({ status }) => status))
        );
      });
    expect(await states(inTime, "in-time-")).toEqual({ decided: 20 });
    expect(await states(late, "late-")).toEqual({ lapsed: 20 });
    const { availableTickets } = await client.readEvent(event.id);
    expect(availableTickets).toBeLessThanOrEqual(30);
    expect(availableTickets).toBeGreaterThanOrEqual(29);
  });
});

test("Q9: without a broker everybody waits for the decision, whatever they prefer", async () => {
  await using cluster = await startTestCluster({ shards: 1, env: { AMQP_URL: "amqp://127.0.0.1:1" } });
  const client = cluster.client();
  const event = await client.createEvent();
  const body = { intake: "queue" };
  await client.send("PATCH", `/v1/events/${event.id}`, { as: ORGANIZER, role: "organizer", body });

  const answer = await client.book(event.id, "ada", 1, ASYNC);

  expect([answer.status, answer.headers.get("preference-applied")]).toEqual([201, null]);
});

async function queueIsUp(cluster: TestCluster): Promise<void> {
  await eventually("all reach the queue", async () => {
    const roles = [...cluster.routers, ...cluster.nodes];
    const texts = await Promise.all(
      roles.map(async ({ adminUrl }) => (await fetch(`${adminUrl}/metrics`)).text()),
    );
    return texts.every((text) => /^onsale_queue_up 1$/m.test(text));
  });
}

/** The values of a stream of events. */
async function* eventsOf({ body }: Response): AsyncGenerator<Request> {
  let text = "";
  for await (const chunk of (body ?? new ReadableStream()).pipeThrough(new TextDecoderStream())) {
    text += chunk;
    const events = text.split("\n\n");
    text = events.pop() ?? "";
    for (const event of events) if (event.startsWith("data: ")) yield JSON.parse(event.slice(6)) as Request;
  }
}

const users = (count: number, name: string) => Array.from({ length: count }, (_, index) => `${name}${index}`);

function requestOf(event: EventId, user: string): RequestCommand {
  return { ...bookCommand(event, user), requestId: newBookingId(slotOf(event), Date.now()) };
}

async function bookingOf(cluster: TestCluster, shard: number, event: string): Promise<object | undefined> {
  using connection = connectTo(cluster.shards[shard]?.databaseUrl ?? "");
  const [row] = await connection.run("select user_id, status from bookings where event_id = $1", [event]);
  return row;
}
