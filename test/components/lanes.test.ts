/** Lanes alone, with a clock and a decider that the test drives: who is decided when, and who is turned away. */
import { stoppedClock } from "../support/clock.ts";
import { bookCommand, settleCommand } from "../support/commands.ts";
import fc from "fast-check";
import { expect, test } from "vitest";
import type { BatchOptions, Decided, DecidedBatch } from "../../shard-node/decide/decider.ts";
import { type LaneLimits, Lanes, LOCK_WAIT_MS } from "../../shard-node/decide/lanes.ts";
import { type EventId, newBookingId, newEventId, type UserId } from "../../shared/domain/ids.ts";
import { slotOf } from "../../shared/domain/slots.ts";
import type { BookCommand, Command } from "../../shared/domain/commands.ts";

const seed = Number(process.env["TEST_SEED"] ?? Date.now() % 2 ** 31);
const ONE_LANE: LaneLimits = { lanes: 1, batchMax: 3, queueMax: 20, waitMaxMs: 1_000, perUserMax: 10 };
/** In slots of their own. */
const EVENTS = [
  ...new Map(Array.from({ length: 40 }, () => newEventId(Date.now())).map((id) => [slotOf(id), id])).values(),
];

test("L1: a user has few commands under way for an event, and further ones are refused at once", async () => {
  const { lanes, batches, shed } = given({ ...ONE_LANE, perUserMax: 2 });
  const accepted = [lanes.run(book("greedy")), lanes.run(confirm(0, "greedy"))];

  const refused = await lanes.run(book("greedy"));

  expect(refused.result).toEqual({ outcome: "rate_limited" });
  expect(shed).toEqual(["user_busy"]);
  const others = [book("honest"), book("greedy", 1), confirm(0, null)];
  for (const command of others) void lanes.run(command);
  await batches.next();
  batches.finish();
  await batches.next();
  batches.finish();
  await Promise.all(accepted);
  void lanes.run(book("greedy"));
  expect((await batches.next()).commands).toEqual([expect.objectContaining({ userId: "greedy" })]);
});

test("L1: several commands of one user for one event are decided in one batch", async () => {
  const { lanes, batches } = given(ONE_LANE);
  const commands = [book("user"), book("user"), book("user", 1)];

  for (const command of commands) void lanes.run(command);

  expect((await batches.next()).commands).toHaveLength(3);
});

test("L2: events share a batch, however many commands one of them has", async () => {
  const { lanes, batches } = given(ONE_LANE);
  const hot = Array.from({ length: 6 }, (_, number) => book(`hot ${number}`));
  const quiet = [book("ada", 1), book("bob", 2)];

  for (const command of [...hot, ...quiet]) void lanes.run(command);

  expect(new Set((await batches.next()).commands)).toEqual(new Set([hot[0], ...quiet]));
  batches.finish();
  expect((await batches.next()).commands).toEqual(hot.slice(1, 4));
});

test("L2: beside a lane with a hot event, another lane serves the quiet ones", async () => {
  const { lanes, batches } = given({ ...ONE_LANE, lanes: 2 });
  for (let number = 0; number < 6; number += 1) void lanes.run(book(`hot ${number}`));
  await batches.next();
  const quiet = book("ada", 1);

  void lanes.run(quiet);

  expect((await batches.next()).commands).toEqual([quiet]);
  expect(batches.running).toBe(2);
});

test("L2: confirm and cancel do not wait behind bookings, and leave them half of a batch", async () => {
  const { lanes, batches } = given({ ...ONE_LANE, batchMax: 4, queueMax: 12 });
  const bookings = Array.from({ length: 6 }, (_, number) => book(`user ${number}`));
  for (const command of bookings) void lanes.run(command);
  expect((await lanes.run(book("surplus"))).result).toEqual({ outcome: "overloaded" });

  const settling = [confirm(0), confirm(0), confirm(0)];
  for (const command of settling) void lanes.run(command);

  expect((await batches.next()).commands).toEqual([...settling.slice(0, 2), ...bookings.slice(0, 2)]);
});

test("L4: an event that somebody else has locked is refused at once, and tried again a moment later", async () => {
  const { lanes, batches, clock, shed } = given(ONE_LANE);
  const locked = EVENTS[0] as EventId;
  const first = lanes.run(book("first"));
  await batches.next();
  batches.finish([locked]);
  await first;

  const refused = lanes.run(book("second"));
  const quiet = book("ada", 1);
  void lanes.run(quiet);

  expect((await batches.next()).commands).toEqual([quiet]);
  expect((await refused).result).toEqual({ outcome: "overloaded" });
  expect(shed).toEqual(["event_locked"]);
  batches.finish();
  clock.time += LOCK_WAIT_MS;
  const again = lanes.run(book("third"));
  const tried = await batches.next();
  expect(tried.doubted).toEqual([locked]);
  batches.finish();
  await again;
  void lanes.run(book("fourth"));
  expect((await batches.next()).doubted).toBeUndefined();
});

test("B8: commands are decided in the order in which they came", async () => {
  const { lanes, batches } = given(ONE_LANE);
  const commands = ["a", "b", "c", "d", "e"].map((user) => book(user));

  for (const command of commands) void lanes.run(command);

  expect((await batches.next()).commands).toEqual(commands.slice(0, 3));
  batches.finish();
  expect((await batches.next()).commands).toEqual(commands.slice(3));
});

test("B8: a lane runs one batch at a time, and what arrives meanwhile is the next batch", async () => {
  const { lanes, batches } = given(ONE_LANE);
  void lanes.run(book("a"));
  await batches.next();

  void lanes.run(book("b"));
  void lanes.run(book("c"));
  await turnOfTheEventLoop();

  expect(batches.running).toBe(1);
  batches.finish();
  expect((await batches.next()).commands).toHaveLength(2);
});

test("B8: a full batch is sent when the one before it holds its locks, and never a third", async () => {
  const { lanes, batches } = given({ ...ONE_LANE, batchMax: 2 });
  const commands = ["a", "b", "c", "d", "e", "f", "g", "h"].map((user) => book(user));
  for (const command of commands) void lanes.run(command);

  const first = await batches.next();
  await turnOfTheEventLoop();
  expect(batches.running).toBe(1);
  first.lock?.();
  const second = await batches.next();
  second.lock?.();
  await turnOfTheEventLoop();
  expect(batches.running).toBe(2);
  batches.finish();
  const third = await batches.next();

  const decided = [first, second, third].flatMap((batch) => batch.commands);
  expect(decided).toEqual(commands.slice(0, 6));
});

test("B8: a batch that could still grow waits for the one before it", async () => {
  const { lanes, batches } = given({ ...ONE_LANE, batchMax: 2 });
  for (const user of ["a", "b", "c"]) void lanes.run(book(user));

  const first = await batches.next();
  first.lock?.();
  await turnOfTheEventLoop();

  expect(batches.running).toBe(1);
  batches.finish();
  expect((await batches.next()).commands).toHaveLength(1);
});

test("B8: all commands of an event use one lane, its confirm and cancel included", async () => {
  const { lanes, batches } = given({ ...ONE_LANE, lanes: 9, batchMax: 10 });
  const commands = [confirm(2), book("a", 2), book("b", 2)];

  for (const command of commands) void lanes.run(command);

  expect((await batches.next()).commands).toEqual(commands);
});

test("F2: a full lane refuses at once, and takes commands again when it has room", async () => {
  const { lanes, batches, shed } = given({ ...ONE_LANE, queueMax: 4 });
  const accepted = [lanes.run(book("a")), lanes.run(book("b"))];

  const refused = await lanes.run(book("c"));

  expect(refused).toEqual({ result: { outcome: "overloaded" }, snapshot: undefined });
  expect(shed).toEqual(["lane_full"]);
  await batches.next();
  const later = lanes.run(book("d"));
  batches.finish();
  await batches.next();
  batches.finish();
  expect(await Promise.all([...accepted, later])).toHaveLength(3);
});

test("F2: a command whose deadline passed while it waited is dropped before its batch starts", async () => {
  const { lanes, batches, clock, shed } = given(ONE_LANE);
  void lanes.run(book("a"));
  await batches.next();
  const late = lanes.run({ ...book("b"), deadline: clock.time + 100 });
  const inTime = { ...book("c"), deadline: clock.time + 101 };
  void lanes.run(inTime);

  clock.time += 100;
  batches.finish();

  expect((await batches.next()).commands).toEqual([inTime]);
  expect((await late).result).toEqual({ outcome: "overloaded" });
  expect(shed).toEqual(["deadline"]);
});

test("L5: once an event's first command has waited long, further ones are refused at once", async () => {
  const { lanes, batches, clock, shed } = given(ONE_LANE);
  void lanes.run(book("under way"));
  await batches.next();
  void lanes.run(book("waits"));

  clock.time += ONE_LANE.waitMaxMs;

  expect((await lanes.run(book("late"))).result).toEqual({ outcome: "overloaded" });
  expect(shed).toEqual(["lane_slow"]);
  void lanes.run(book("ada", 1));
  batches.finish();
  expect((await batches.next()).commands).toHaveLength(2);
});

test("L5: a command that would wait too long is refused at once, by how fast its event was decided lately", async () => {
  const { lanes, batches, clock, shed } = given({ ...ONE_LANE, batchMax: 1, queueMax: 100 });
  const BATCH_MS = 100;
  for (let number = 0; number < 8; number += 1) void lanes.run(book(`early ${number}`));
  for (let decided = 0; decided < 5; decided += 1) {
    await batches.next();
    clock.time += BATCH_MS;
    batches.finish();
  }
  await batches.next();

  // The first of those that wait has waited for less than its second by far.
  for (let number = 0; number < 5; number += 1) void lanes.run(book(`late ${number}`, 1));
  while (shed.length === 0) void lanes.run(book("later"));

  expect(shed).toEqual(["lane_slow"]);
  expect(Math.abs(lanes.queueLength - 5 - ONE_LANE.waitMaxMs / BATCH_MS)).toBeLessThanOrEqual(1);
});

test("F2: commands that are dropped take no place in a batch", async () => {
  const { lanes, batches, clock } = given(ONE_LANE);
  void lanes.run(book("first"));
  await batches.next();
  for (const user of ["a", "b", "c"]) void lanes.run({ ...book(user), deadline: clock.time + 1 });
  const patient = ["d", "e", "f"].map((user) => book(user));
  for (const command of patient) void lanes.run(command);

  clock.time += 1;
  batches.finish();

  expect((await batches.next()).commands).toEqual(patient);
});

test("F5: drained() waits for every accepted command, also those that wait for a second batch", async () => {
  const { lanes, batches } = given({ ...ONE_LANE, batchMax: 1 });
  const answered: string[] = [];
  const note = (name: string) => () => answered.push(name);
  void lanes.run(book("a")).then(note("first"));
  void lanes.run(book("b")).then(note("second"));
  void lanes.drained().then(note("drained"));

  await batches.next();
  batches.finish();
  await batches.next();
  expect(answered).toEqual(["first"]);
  batches.finish();
  await turnOfTheEventLoop();

  expect(answered).toEqual(["first", "second", "drained"]);
  expect(lanes.queueLength).toBe(0);
});

test("Q4: the booking requests of an event are in one batch at a time, whatever else is sent ahead", async () => {
  const { lanes, batches } = given({ ...ONE_LANE, batchMax: 2 });
  const requests = ["a", "b", "c", "d"].map((user) => request(user));
  for (const command of requests) void lanes.run(command);

  const first = await batches.next();
  first.lock?.();
  await turnOfTheEventLoop();

  expect(batches.running).toBe(1);
  expect(first.commands).toEqual(requests.slice(0, 2));
  batches.finish();
  expect((await batches.next()).commands).toEqual(requests.slice(2));
});

test("Q4: a command that may not begin when its batch is made is in none", async () => {
  const { lanes, batches } = given(ONE_LANE);
  void lanes.run(book("under way"));
  await batches.next();
  let mayBegin = true;
  const refused = lanes.run(request("a"), { mayBegin: () => mayBegin });
  const other = request("b");
  void lanes.run(other);

  mayBegin = false;
  batches.finish();

  expect((await batches.next()).commands).toEqual([other]);
  expect((await refused).result).toEqual({ outcome: "overloaded" });
});

test("F5: lanes without work are drained already", async () => {
  const { lanes } = given(ONE_LANE);

  await expect(lanes.drained()).resolves.toBeUndefined();
});

// A failing run prints its seed; TEST_SEED=<seed> npx vitest run test/components/lanes runs it again.
test("B8 F2 L2: whatever arrives in whatever order, batches are small, and events in order and with one lane", async () => {
  const arrival = fc.record({ user: fc.nat({ max: 2 }), event: fc.nat({ max: 3 }), settles: fc.boolean() });
  const act = fc.oneof({ weight: 4, arbitrary: arrival }, { weight: 1, arbitrary: fc.constant("finish") });

  await fc.assert(
    fc.asyncProperty(
      fc.array(act, { maxLength: 40 }),
      fc.integer({ min: 1, max: 3 }),
      async (acts, lanes) => {
        const { decided, accepted, tooManyAtOnce, sharedASlot } = await play(acts, lanes);

        expect({ tooManyAtOnce, sharedASlot }).toEqual({ tooManyAtOnce: false, sharedASlot: false });
        for (const batch of decided) expect(batch.length).toBeLessThanOrEqual(4);
        // Every command once; and those of one event and kind in the order of arrival.
        const order = decided.flat().map((command) => accepted.indexOf(command));
        expect(order.toSorted((a, b) => a - b)).toEqual(accepted.map((_, index) => index));
        const rivals = Object.groupBy(order, (index) => `${accepted[index]?.slot} ${accepted[index]?.kind}`);
        for (const some of Object.values(rivals)) expect(some).toEqual(some?.toSorted((a, b) => a - b));
      },
    ),
    { numRuns: 300, seed },
  );
});

/** Lets commands arrive and batches finish as told, and then finishes what is left. */
async function play(
  acts: readonly (string | { user: number; event: number; settles: boolean })[],
  lanesCount: number,
): Promise<{
  decided: (readonly Command[])[];
  accepted: Command[];
  tooManyAtOnce: boolean;
  sharedASlot: boolean;
}> {
  const limits = { ...ONE_LANE, lanes: lanesCount, batchMax: 4, queueMax: 100, perUserMax: 100 };
  const { lanes, batches } = given(limits);
  let sharedASlot = false;
  const accepted: Command[] = [];
  let tooManyAtOnce = false;
  for (const act of acts) {
    if (typeof act === "string") {
      await turnOfTheEventLoop();
      tooManyAtOnce ||= batches.running > lanesCount;
      const slots = batches.underWay.flatMap(({ commands }) => [
        ...new Set(commands.map(({ slot }) => slot)),
      ]);
      sharedASlot ||= new Set(slots).size < slots.length;
      batches.finish();
    } else {
      const command = act.settles ? confirm(act.event) : book(`user-${act.user}`, act.event);
      accepted.push(command);
      void lanes.run(command);
    }
  }
  const drained = lanes.drained().then(() => "drained");
  while ((await Promise.race([drained, turnOfTheEventLoop()])) !== "drained") batches.finish();
  return { decided: batches.all.map(({ commands }) => commands), accepted, tooManyAtOnce, sharedASlot };
}

function given(limits: LaneLimits) {
  const clock = stoppedClock();
  const batches = new Batches();
  const shed: string[] = [];
  const observer = {
    batchStarted() {},
    batchEnded() {},
    commandWaited() {},
    shed: (reason: string) => void shed.push(reason),
  };
  const lanes = new Lanes(
    limits,
    async (commands, options) => batches.decide(commands, options),
    clock,
    observer,
  );
  return { lanes, batches, clock, shed };
}

interface StartedBatch {
  readonly commands: readonly Command[];
  readonly finish: (lockedEvents?: readonly EventId[]) => void;
  readonly doubted: readonly EventId[] | undefined;
  /** Says that it holds its locks; undefined where nobody wants to know. */
  readonly lock: (() => void) | undefined;
}

/** A decider whose batches run until the test finishes them. */
class Batches {
  readonly all: StartedBatch[] = [];
  #seen = 0;
  #finished = 0;

  get running(): number {
    return this.all.length - this.#finished;
  }

  get underWay(): readonly StartedBatch[] {
    return this.all.slice(this.#finished);
  }

  decide(commands: readonly Command[], { locked: lock, doubted }: BatchOptions): Promise<DecidedBatch> {
    return new Promise((resolve) => {
      const decided = commands.map((): Decided => ({ result: { outcome: "sold_out" }, snapshot: undefined }));
      const finish = (lockedEvents: readonly EventId[] = []): void => resolve({ decided, lockedEvents });
      this.all.push({ commands, lock, doubted, finish });
    });
  }

  /** The batch after the last one that was asked for, when it has started. */
  async next(): Promise<StartedBatch> {
    await turnOfTheEventLoop();
    const batch = this.all[this.#seen];
    if (batch === undefined) throw new Error("no further batch was started");
    this.#seen += 1;
    return batch;
  }

  /** Finishes the oldest batch that runs, if any does. */
  finish(lockedEvents?: readonly EventId[]): void {
    const batch = this.all[this.#finished];
    if (batch === undefined) return;
    this.#finished += 1;
    batch.finish(lockedEvents);
  }
}

function request(user: string, event = 0): Command {
  const command = book(user, event);
  return { ...command, requestId: newBookingId(command.slot, Date.now()) };
}

function book(user: string, event = 0): BookCommand {
  return bookCommand(EVENTS[event] as EventId, user);
}

function confirm(event: number, user: string | null = "user"): Command {
  const bookingId = newBookingId(slotOf(EVENTS[event] as EventId), Date.now());
  return settleCommand("confirm", bookingId, user as UserId | null);
}

/** A lane starts its first batch one turn of the event loop after its first command. */
async function turnOfTheEventLoop(): Promise<void> {
  await new Promise(setImmediate);
  await new Promise(setImmediate);
}
