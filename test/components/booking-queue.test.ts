/** The way into the queue alone: its broker is a fake that confirms when it is told to. */
import { expect, test } from "vitest";
import { BookingQueue } from "../../router/queue/booking-queue.ts";
import { type EventId, newEventId, type ShardId } from "../../shared/domain/ids.ts";
import { slotOf } from "../../shared/domain/slots.ts";
import type { Published } from "../../shared/queue/broker.ts";
import { REQUESTS_MAX, requestsFrom } from "../../shared/queue/message.ts";
import { systemClock } from "../../shared/process/clock.ts";
import { queueOf } from "../../shared/queue/queues.ts";
import { bookCommand } from "../support/commands.ts";
import { eventually } from "../support/eventually.ts";

const SHARD = "shard-0" as ShardId;
const EVENT = newEventId(Date.now());
/** Of another queue. */
const OTHER = ((): EventId => {
  for (;;) {
    const id = newEventId(Date.now());
    if (queueOf(SHARD, slotOf(id)) !== queueOf(SHARD, slotOf(EVENT))) return id;
  }
})();
/** Messages of one queue that may be under way. */
const MESSAGES_MAX = 4;

test("Q1: requests that come together leave in one message for each queue, in their order", async () => {
  const { offer, messages } = given();

  const offered = [offer("ada"), offer("eve", OTHER), offer("bob")];
  await turnOfTheEventLoop();

  expect(messages.map(({ users }) => users)).toEqual([["ada", "bob"], ["eve"]]);
  messages[0]?.confirm("confirmed");
  messages[1]?.confirm("away");
  expect(await Promise.all(offered)).toEqual(["confirmed", "away", "confirmed"]);
});

test("Q1 Q8: while messages are under way, requests wait for the next, which is bounded too", async () => {
  const { offer, messages } = given();
  for (let number = 0; number < MESSAGES_MAX; number += 1) {
    void offer(`first-${number}`);
    await turnOfTheEventLoop();
  }
  const users = Array.from({ length: REQUESTS_MAX + 1 }, (_, number) => `later-${number}`);
  for (const user of users) void offer(user);
  await turnOfTheEventLoop();
  expect(messages).toHaveLength(MESSAGES_MAX);

  messages[0]?.confirm("confirmed");
  messages[1]?.confirm("confirmed");

  await eventually("two more are under way", () => messages.length === MESSAGES_MAX + 2);
  expect(messages.slice(MESSAGES_MAX).map((message) => message.users)).toEqual([
    users.slice(0, REQUESTS_MAX),
    users.slice(REQUESTS_MAX),
  ]);
});

test("Q8: behind messages without a confirmation few requests wait, and one more is refused at once", async () => {
  const { offer, messages } = given();
  for (let number = 0; number < MESSAGES_MAX; number += 1) {
    void offer(`first-${number}`);
    await turnOfTheEventLoop();
  }
  const waiting = Array.from({ length: 5_000 }, async (_, number) => offer(`waits-${number}`));

  expect(await offer("one-too-many")).toBe("refused");

  // Nobody can say what became of the first. Those behind were never sent.
  messages[0]?.confirm("unknown");
  expect(new Set(await Promise.all(waiting))).toEqual(new Set(["refused"]));
  expect(messages).toHaveLength(MESSAGES_MAX);
});

test("F2 Q8: each request is answered at its own deadline: unknown when it was sent, and refused when it still waits", async () => {
  const { offer, messages } = given();
  const sent = [offer("sent", EVENT, 50)];
  await turnOfTheEventLoop();
  for (let number = 1; number < MESSAGES_MAX; number += 1) {
    sent.push(offer(`sent-${number}`, EVENT, 50));
    await turnOfTheEventLoop();
  }
  const patient = offer("patient");
  const waits = offer("waits", EVENT, 50);

  expect(await waits).toBe("refused");
  expect(new Set(await Promise.all(sent))).toEqual(new Set(["unknown"]));
  messages[0]?.confirm("confirmed");
  await turnOfTheEventLoop();
  await turnOfTheEventLoop();
  expect(messages.at(-1)?.users).toEqual(["patient"]);
  messages.at(-1)?.confirm("confirmed");
  expect(await patient).toBe("confirmed");
});

function given() {
  const messages: { readonly users: readonly string[]; readonly confirm: (published: Published) => void }[] =
    [];
  const broker = {
    up: true,
    publish: async (_queue: string, _id: string, content: Buffer) =>
      new Promise<Published>((confirm) => {
        const requests = requestsFrom(content);
        if ("unreadable" in requests) throw new Error(requests.unreadable);
        messages.push({ users: requests.map(({ userId }) => userId), confirm });
      }),
    close: async () => undefined,
  };
  const queue = new BookingQueue(broker, systemClock);
  const offer = async (user: string, event = EVENT, withinMs = 60_000): Promise<Published> => {
    const deadline = systemClock.elapsed() + withinMs;
    return (await queue.offer(SHARD, { ...bookCommand(event, user), deadline })).published;
  };
  return { offer, messages };
}

const turnOfTheEventLoop = async (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));
