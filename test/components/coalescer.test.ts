/** A coalescer alone: its clock stands still, and its calls end when the test says so. */
import { afterEach, expect, test, vi } from "vitest";
import {
  Coalescer,
  type CoalescerLimits,
  DEADLINE_SLACK_MS,
  type Outgoing,
} from "../../router/shards/coalescer.ts";
import { stoppedClock } from "../support/clock.ts";

afterEach(() => void vi.useRealTimers());

const LIMITS: CoalescerLimits = { batchMax: 3, inFlightMax: 2, queueMax: 4 };

test("F2: a request leaves at once while fewer calls are under way than may be", async () => {
  const { run, calls } = given();

  void run("a");
  await turn();
  void run("b");
  await turn();

  expect(calls.map(({ items }) => items)).toEqual([["a"], ["b"]]);
});

test("F2: requests of one turn of the event loop share a call, in their order, up to its size", async () => {
  const { run, calls } = given();

  for (const item of ["a", "b", "c", "d"]) void run(item);
  await turn();

  expect(calls.map(({ items }) => items)).toEqual([["a", "b", "c"], ["d"]]);
});

test("F2: while all calls are under way requests gather, and the next free call takes them together", async () => {
  const { run, calls } = given();
  for (const item of ["a", "b"]) {
    void run(item);
    await turn();
  }

  for (const item of ["c", "d"]) {
    void run(item);
    await turn();
  }
  expect(calls).toHaveLength(2);
  calls[1]?.finish();
  await turn();

  expect(calls.map(({ items }) => items)).toEqual([["a"], ["b"], ["c", "d"]]);
});

test("F1: everybody gets the result of their own item", async () => {
  const { run, calls } = given();

  const results = ["a", "b", "c"].map((item) => run(item));
  await turn();
  calls[0]?.finish();

  expect(await Promise.all(results)).toEqual(["did a", "did b", "did c"]);
});

test("F2: a full queue refuses at once, and takes requests again when it has room", async () => {
  const { run, calls } = given({ ...LIMITS, inFlightMax: 1 });
  void run("under way");
  await turn();

  for (const item of ["a", "b", "c", "d"]) void run(item);
  expect(await run("surplus")).toBe("queue_full");

  calls[0]?.finish();
  await turn();
  void run("e");
  calls[1]?.finish();
  await turn();
  expect(calls.map(({ items }) => items)).toEqual([["under way"], ["a", "b", "c"], ["d", "e"]]);
});

test("F2: a request whose deadline passed while it waited is not sent, and takes no place in a call", async () => {
  const { run, calls, clock } = given({ ...LIMITS, inFlightMax: 1 });
  void run("under way");
  await turn();
  const late = run("late", clock.time + 10);
  for (const item of ["a", "b", "c"]) void run(item);

  clock.time += 10;
  calls[0]?.finish();
  await turn();

  expect(await late).toBe("deadline");
  expect(calls[1]?.items).toEqual(["a", "b", "c"]);
});

test("F2: a call that hangs keeps nobody beyond their own deadline, whether they were sent or not", async () => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
  const { run, calls, clock } = given({ ...LIMITS, inFlightMax: 1 });
  const sent = run("sent", clock.time + 1_000);
  await turn();
  const queued = run("queued", clock.time + 1_500);
  const patient = run("patient", clock.time + 60_000);

  await pass(clock, 1_000 + DEADLINE_SLACK_MS + 1);
  expect(await sent).toBe("unanswered");
  await pass(clock, 501);
  expect(await queued).toBe("deadline");

  calls[0]?.finish();
  await turn();
  expect(calls[1]?.items).toEqual(["patient"]);
  calls[1]?.finish();
  expect(await patient).toBe("did patient");
});

test("F2: when nobody waits any more, nothing is sent", async () => {
  const { run, calls, clock } = given();

  expect(await run("late", clock.time)).toBe("deadline");

  expect(calls).toEqual([]);
});

function given(limits = LIMITS) {
  const clock = stoppedClock();
  const calls: { items: string[]; finish: () => void }[] = [];
  const send = (batch: readonly Outgoing<string>[]): Promise<string[]> =>
    new Promise((resolve) => {
      const items = batch.map(({ item }) => item);
      calls.push({ items, finish: () => resolve(items.map((item) => `did ${item}`)) });
    });
  const sender = { send, shed: (reason: string) => reason, unanswered: () => "unanswered" };
  const coalescer = new Coalescer<string, string>(limits, sender, clock);
  const run = (item: string, deadline = clock.time + 1_000): Promise<string> => coalescer.run(item, deadline);
  return { clock, calls, run };
}

/** Moves the clock and the timers together. */
async function pass(clock: { time: number }, milliseconds: number): Promise<void> {
  clock.time += milliseconds;
  await vi.advanceTimersByTimeAsync(milliseconds);
}

/** Lets a coalescer send everything that it can send now. */
async function turn(): Promise<void> {
  for (let phase = 0; phase < 3; phase += 1) await new Promise(setImmediate);
}
