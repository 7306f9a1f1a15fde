/** The publisher of changes alone: its broker is a fake, so each confirmation comes when the test says. */
import { expect, test } from "vitest";
import {
  ChangePublisher,
  MESSAGES_PER_SECOND_MAX,
  ROUND_MAX,
} from "../../shard-node/queue/change-publisher.ts";
import type { Change } from "../../shared/domain/changes.ts";
import {
  type BookingId,
  type EventId,
  newBookingId,
  newEventId,
  type ShardId,
} from "../../shared/domain/ids.ts";
import { slotOf } from "../../shared/domain/slots.ts";
import type { Published } from "../../shared/queue/broker.ts";
import { tally } from "../support/running-cluster.ts";
import { eventually } from "../support/eventually.ts";

const [FIRST, SECOND] = [newEventId(1), newEventId(2)];

test("J6: the next change of an event is sent when the one before is confirmed; other events do not wait", async () => {
  const world = given();
  const done = world.run(changeOf(8, FIRST, 2), changeOf(16, FIRST, 1), changeOf(24, SECOND, 1));
  await eventually("a round is sent", () => world.sent.length === 3);
  expect(world.sentPositions()).toEqual([8, 8, 24]);

  world.answer("confirmed", "refused", "confirmed");

  await eventually("what was refused is sent again", () => world.sent.length === 1);
  expect(world.sentPositions()).toEqual([8]);
  world.answer("confirmed");
  await eventually("the next", () => world.sent.length === 1);
  expect(world.sentPositions()).toEqual([16]);
  world.answer("confirmed");
  expect(await done).toBe(true);
  expect(tally(world.counted)).toEqual({ confirmed: 4, refused: 1 });
});

test("J6 J7: after a failure one message is tried alone until it is taken", async () => {
  const world = given();
  const done = world.run(changeOf(8, FIRST, 3));
  await eventually("a round is sent", () => world.sent.length === 3);
  const [{ id: first } = { id: "" }, , { id: third } = { id: "" }] = world.sent;

  world.answer("unknown", "confirmed", "away");

  for (const _ of "twice") {
    await eventually("one is tried", () => world.sent.length === 1);
    expect(world.sent[0]?.id).toBe(first);
    if (_ === "e") break;
    world.answer("refused");
  }
  world.answer("confirmed");
  await eventually("then the other", () => world.sent.length === 1);
  expect(world.sent[0]?.id).toBe(third);
  world.answer("confirmed");
  expect(await done).toBe(true);
});

test("J7: few messages are under way at once", async () => {
  const world = given();
  const done = world.run(changeOf(8, FIRST, ROUND_MAX + 1));
  await eventually("a round is sent", () => world.sent.length === ROUND_MAX);
  world.answer(...world.sent.map(() => "confirmed" as const));
  await eventually("the rest is sent", () => world.sent.length === 1);
  world.answer("confirmed");
  expect(await done).toBe(true);
});

test("J7: a rush is published no faster than bookings can spare the node", async () => {
  const world = given("confirmed");
  const began = performance.now();
  expect(await world.run(changeOf(8, FIRST, MESSAGES_PER_SECOND_MAX / 4))).toBe(true);
  // A timer may be a millisecond early, and the last pause of under ten is saved.
  expect(performance.now() - began).toBeGreaterThan(230);
});

test("J7: a publisher that is told to stop sends nothing more, and says that not all is done", async () => {
  const world = given();
  const done = world.run(changeOf(8, FIRST, 1), changeOf(16, FIRST, 1));
  await eventually("the first is sent", () => world.sent.length === 1);
  world.stop.abort();
  world.answer("confirmed");
  expect(await done).toBe(false);
  expect(world.sent).toEqual([]);
});

/** Without `always`, the test answers. */
function given(always?: Published) {
  interface Sent {
    readonly id: string;
    readonly resolve: (published: Published) => void;
  }
  let sent: Sent[] = [];
  const counted: string[] = [];
  const stop = new AbortController();
  const broker = {
    up: true,
    async announce(
      _exchange: string,
      _key: string,
      _content: Buffer,
      { messageId: id }: { messageId: string },
    ) {
      if (always !== undefined) return always;
      const { promise, resolve } = Promise.withResolvers<Published>();
      sent.push({ id, resolve });
      return promise;
    },
  };
  const publisher = new ChangePublisher("shard-0" as ShardId, broker, (result) => void counted.push(result));
  return {
    run: async (...changes: Change[]) => publisher.run(changes, stop.signal),
    /** Messages without an answer. */
    get sent(): readonly Sent[] {
      return sent;
    },
    sentPositions: () => sent.map(({ id }) => Number(id.split(".")[1])),
    /** Answers those that were sent, in their order. */
    answer(...results: Published[]) {
      expect(results).toHaveLength(sent.length);
      const before = sent;
      sent = [];
      for (const [index, { resolve }] of before.entries()) resolve(results[index] ?? "unknown");
    },
    stop,
    counted,
  };
}

/** So many bookings. */
function changeOf(position: number, eventId: EventId, bookings: number): Change {
  const at = "2031-01-01T00:00:00.000Z";
  const booking = (id: BookingId) =>
    ({
      id,
      eventId,
      userId: "ada",
      quantity: 1,
      status: "confirmed",
      expiresAt: null,
      createdAt: at,
      updatedAt: at,
    }) as Change["bookings"][number];
  return {
    position,
    at,
    events: [],
    event: null,
    bookings: Array.from({ length: bookings }, () => booking(newBookingId(slotOf(eventId), 1))),
  };
}
