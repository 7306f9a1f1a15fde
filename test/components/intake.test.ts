/** The intake of booking requests alone: its broker and its lanes are fakes, so every order here is forced. */
import { expect, test } from "vitest";
import type { DecideBatch } from "../../shard-node/decide/decider.ts";
import { Lanes, type RunOptions } from "../../shard-node/decide/lanes.ts";
import { Intake, type RequestResult } from "../../shard-node/queue/intake.ts";
import { type EventId, newBookingId, newEventId, type ShardId } from "../../shared/domain/ids.ts";
import type { CommandResult } from "../../shared/domain/outcomes.ts";
import { type Slot, slotOf } from "../../shared/domain/slots.ts";
import { createLog } from "../../shared/process/log.ts";
import { systemClock } from "../../shared/process/clock.ts";
import type { Consumer } from "../../shared/queue/broker.ts";
import { messageOf } from "../../shared/queue/message.ts";
import { DEAD_QUEUE, queueOf } from "../../shared/queue/queues.ts";
import type { Command, RequestCommand } from "../../shared/domain/commands.ts";
import { bookCommand } from "../support/commands.ts";
import { eventually } from "../support/eventually.ts";

const SHARD = "shard-0" as ShardId;

test("Q2: a message is acknowledged after the outcome of its request, and not before", async () => {
  const world = startIntake();
  world.deliver(requestOf("ada"), requestOf("bob"));
  await eventually("both are in a lane", () => world.waiting.length === 2);
  expect(world.acknowledged).toEqual([]);

  world.decide({ outcome: "sold_out" }, { outcome: "lapsed" });

  await eventually("both are acknowledged", () => world.acknowledged.length === 1);
  expect(world.acknowledged).toEqual(["all up to bob"]);
  expect(world.counted).toEqual({ decided: 1, lapsed: 1 });
});

test("Q2 Q4: what a fault left undecided stays with the broker, and is tried again before anything newer", async () => {
  const world = startIntake();
  world.deliver(requestOf("ada"), requestOf("bob"));
  await eventually("both are in a lane", () => world.waiting.length === 2);
  world.deliver(requestOf("cora"));

  world.decide({ outcome: "shard_unavailable" }, { outcome: "sold_out" });

  await eventually("the second is acknowledged", () => world.acknowledged.length === 1);
  expect(world.acknowledged).toEqual(["bob"]);
  await eventually("they are tried again", () => world.waiting.length === 2);
  expect(world.waiting.map(({ command }) => command.userId)).toEqual(["ada", "cora"]);
  world.decide({ outcome: "outcome_unknown" }, { outcome: "overloaded" });
  await eventually("and again", () => world.waiting.length === 2);
  world.decide({ outcome: "sold_out" }, { outcome: "sold_out" });
  await eventually("all are acknowledged", () => world.acknowledged.length === 2);
  expect(world.acknowledged).toEqual(["bob", "all up to cora"]);
});

test("Q1 Q2: a message of several requests is acknowledged when all have an outcome, and only the others are tried again", async () => {
  const world = startIntake();
  world.deliverTogether(requestOf("ada"), requestOf("bob"), requestOf("cora"));
  await eventually("all are in a lane", () => world.waiting.length === 3);

  world.decide({ outcome: "sold_out" }, { outcome: "outcome_unknown" }, { outcome: "overloaded" });

  await eventually("the others are tried again", () => world.waiting.length === 2);
  expect(world.waiting.map(({ command }) => command.userId)).toEqual(["bob", "cora"]);
  expect(world.acknowledged).toEqual([]);
  world.decide({ outcome: "sold_out" }, { outcome: "lapsed" });
  await eventually("it is acknowledged", () => world.acknowledged.length === 1);
  expect(world.counted).toEqual({ decided: 2, lapsed: 1 });
});

test("Q4: behind a request that a fault left undecided none of its event may begin, and those of other events may", async () => {
  const world = startIntake();
  const requests = [
    requestOf("ada"),
    requestOf("bob"),
    requestOf("cora"),
    requestOf("eve", Date.now(), OTHER),
  ];
  world.deliverTogether(...requests);
  await eventually("all are in a lane", () => world.waiting.length === 4);
  const waiting = [...world.waiting];
  const mayBegin = (): boolean[] => waiting.map((each) => each.mayBegin());
  expect(mayBegin()).toEqual([true, true, true, true]);

  waiting[1]?.resolve({ outcome: "shard_unavailable" });

  await eventually("the third may not begin", () => waiting[2]?.mayBegin() === false);
  expect(mayBegin()).toEqual([true, true, false, true]);
});

test("Q4: in lanes whose batches are small, the requests behind a batch that failed are tried again behind its own", async () => {
  const batches: string[] = [];
  let fails = true;
  const decide: DecideBatch = async (commands) => {
    batches.push(commands.map((command) => command.userId).join(" "));
    const result = { outcome: fails ? "shard_unavailable" : "sold_out" } as const;
    fails = false;
    return { decided: commands.map(() => ({ result, snapshot: undefined })), lockedEvents: [] };
  };
  const limits = { lanes: 1, batchMax: 2, queueMax: 100, waitMaxMs: 1_000, perUserMax: 10 };
  const observer = {
    batchStarted: () => undefined,
    batchEnded: () => undefined,
    commandWaited: () => undefined,
    shed: () => undefined,
  };
  const world = startIntake(new Lanes(limits, decide, systemClock, observer));

  world.deliverTogether(...["ada", "bob", "cora", "eve", "fay"].map((user) => requestOf(user)));

  await eventually("it is acknowledged", () => world.acknowledged.length === 1);
  expect(batches).toEqual(["ada bob", "ada bob", "cora eve", "fay"]);
});

test("Q8: what nobody can decide is acknowledged once the dead letters have it, with its reason", async () => {
  const world = startIntake();
  world.published = "away";
  world.deliverText("{");
  await eventually("it is offered", () => world.sent.length > 0);
  expect(world.acknowledged).toEqual([]);
  world.published = "confirmed";
  await eventually("it is acknowledged", () => world.acknowledged.length > 0);
  expect(world.sent.at(-1)).toMatchObject({ queue: DEAD_QUEUE, headers: { reason: "it is not JSON" } });

  world.deliver(requestOf("ada"));
  for (let tries = 0; tries < 5; tries += 1) {
    await eventually("it is tried", () => world.waiting.length === 1);
    world.decide({ outcome: "internal" });
  }
  await eventually("it is given up", () => world.counted["dead"] === 2);
  expect(world.sent.at(-1)).toMatchObject({
    queue: DEAD_QUEUE,
    headers: { reason: "the database refuses it" },
  });
});

test("Q4: a request for another shard is acknowledged once that shard's queue has it", async () => {
  const world = startIntake();
  const request = requestOf("ada");
  world.deliver(request);
  await eventually("it is in a lane", () => world.waiting.length === 1);
  world.decide({ outcome: "wrong_shard" });
  await eventually(
    "it is tried again, while the map still names this shard",
    () => world.waiting.length === 1,
  );
  expect(world.sent).toEqual([]);

  world.owner = "shard-1" as ShardId;
  world.decide({ outcome: "wrong_shard" });

  await eventually("it is acknowledged", () => world.acknowledged.length === 1);
  expect(world.sent).toMatchObject([
    { queue: queueOf("shard-1" as ShardId, request.slot), id: request.requestId },
  ]);
  expect(world.counted).toEqual({});
});

test("Q2: deliveries of a connection that is lost are forgotten: they come again", async () => {
  const world = startIntake();
  world.deliver(requestOf("ada"));
  await eventually("it is in a lane", () => world.waiting.length === 1);
  world.deliver(requestOf("bob"));

  world.consumer.opened();
  world.decide({ outcome: "overloaded" });
  world.deliver(requestOf("ada"));

  await eventually("only what came again is in a lane", () => world.waiting.length === 1);
  expect(world.waiting.map(({ command }) => command.userId)).toEqual(["ada"]);
});

test("Q1: a receipt is told how many are before its request, as far as this node knows", async () => {
  const world = startIntake();
  const now = Date.now();
  const requests = [now - 3_000, now - 2_000, now - 1_000].map((at) => requestOf("ada", at));
  const last = requestOf("bob", now);
  expect(world.intake.aheadOf(last.requestId)).toBeNull();

  world.deliver(...requests);
  world.inBroker = 10;
  await world.intake.sample();

  expect(requests.map(({ requestId }) => world.intake.aheadOf(requestId))).toEqual([0, 1, 2]);
  expect(world.intake.aheadOf(last.requestId)).toBeGreaterThanOrEqual(12);
  expect(world.intake.aheadOf(last.requestId)).toBeLessThanOrEqual(13);
  expect(world.intake.depth).toBe(3 + 8 * 10);
  expect(world.intake.oldestSeconds).toBeGreaterThanOrEqual(3);
});

const EVENT = newEventId(Date.now());
/** In the same queue, and in another slot. */
const OTHER = ((): EventId => {
  for (;;) {
    const id = newEventId(Date.now());
    const [slot, first] = [slotOf(id), slotOf(EVENT)];
    if (slot !== first && queueOf(SHARD, slot) === queueOf(SHARD, first)) return id;
  }
})();

function requestOf(user: string, acceptedAt = Date.now(), event: EventId = EVENT): RequestCommand {
  return { ...bookCommand(event, user), requestId: newBookingId(slotOf(event), acceptedAt) };
}

function startIntake(lanes?: Lanes) {
  const waiting: {
    readonly command: RequestCommand;
    readonly mayBegin: () => boolean;
    readonly resolve: (result: CommandResult) => void;
  }[] = [];
  const acknowledged: string[] = [];
  const sent: { queue: string; id: string; headers: object }[] = [];
  const counted: Partial<Record<RequestResult, number>> = {};
  const world = {
    waiting,
    acknowledged,
    sent,
    counted,
    published: "confirmed" as "confirmed" | "away",
    owner: SHARD,
    inBroker: 0,
  };
  const intake = new Intake({
    shard: SHARD,
    lanes: lanes ?? {
      run: async (command: Command, options?: RunOptions) =>
        new Promise((resolve) => {
          const done = (result: CommandResult): void => resolve({ result, snapshot: undefined });
          waiting.push({
            command: command as RequestCommand,
            mayBegin: () => options?.mayBegin?.() ?? true,
            resolve: done,
          });
        }),
    },
    ownerOf: (_slot: Slot) => world.owner,
    counted: (result, count) => void (counted[result] = (counted[result] ?? 0) + count),
    clock: systemClock,
    log: createLog("test", "silent"),
  });
  let consumers: readonly Consumer[] = [];
  intake.start((all) => {
    consumers = all;
    return {
      up: true,
      publish: async (queue, id, _content, headers) => {
        sent.push({ queue, id, headers: headers ?? {} });
        return world.published;
      },
      waitingIn: async () => world.inBroker,
      stopConsuming: async () => undefined,
      close: async () => undefined,
    };
  });
  const consumer = consumers.find(({ queue }) => queue === queueOf(SHARD, slotOf(EVENT)));
  if (consumer === undefined) throw new Error("a slot has a queue");
  consumer.opened();
  const deliverNamed = (name: string, content: Buffer): void =>
    consumer.deliver({
      content,
      acknowledge: (upTo = false) => void acknowledged.push(upTo ? `all up to ${name}` : name),
    });
  return Object.assign(world, {
    intake,
    consumer,
    deliver: (...requests: readonly RequestCommand[]) => {
      for (const request of requests) deliverNamed(request.userId, messageOf([request]));
    },
    /** In one message. */
    deliverTogether: (...requests: readonly RequestCommand[]) =>
      deliverNamed(requests.map(({ userId }) => userId).join(" "), messageOf(requests)),
    deliverText: (text: string) => deliverNamed(text, Buffer.from(text)),
    /** Gives those that wait their results, in order. */
    decide: (...results: CommandResult[]) => {
      for (const { resolve } of waiting.splice(0)) resolve(results.shift() ?? { outcome: "internal" });
    },
  });
}
