/** A coalescer alone: its clock stands still, and its calls end when the test says so. */
import { afterEach, expect, test, vi } from "vitest";
import {
  Coalescer,
  type CoalescerLimits,
  DEADLINE_SLACK_MS,
  GATHER_MAX_MS,
  OPEN_CALLS_PER_PLACE,
  PLACE_MAX_MS,
  type Outgoing,
} from "../../router/shards/coalescer.ts";
import type { Slot } from "../../shared/domain/slots.ts";
import { stoppedClock } from "../support/clock.ts";

afterEach(() => void vi.useRealTimers());

const LIMITS: CoalescerLimits = { batchMax: 3, inFlightMax: 2, queueMax: 8, waitMaxMs: 1_000 };
const SLOT = 7 as Slot;

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

test("L3: each request is answered when its own result comes, and the first result frees the call's place", async () => {
  const { run, calls } = given({ ...LIMITS, inFlightMax: 1 });
  const [quick, slow] = [run("quick"), run("slow")];
  await turn();
  void run("next");
  await turn();
  expect(calls).toHaveLength(1);

  calls[0]?.give(0);
  expect(await quick).toBe("did quick");
  await turn();

  expect(calls[1]?.items).toEqual(["next"]);
  calls[0]?.finish();
  expect(await slow).toBe("did slow");
});

test("L3: a call without any result keeps its place for a moment only", async () => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
  const { run, calls, clock } = given({ ...LIMITS, inFlightMax: 1 });
  void run("hangs");
  await turn();
  void run("next");
  await turn();
  expect(calls).toHaveLength(1);

  await pass(clock, PLACE_MAX_MS);
  await turn();

  expect(calls[1]?.items).toEqual(["next"]);
});

const ROOMY = { ...LIMITS, batchMax: 500, inFlightMax: 4, queueMax: 10_000 };

test("L3: the more calls are open, the longer the next one gathers, and so slow ones never use all up", async () => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
  const { run, calls, clock } = given(ROOMY);
  const OVERLOAD_MS = 1_000;
  const arrivals: Promise<string>[] = [];
  // A new request each millisecond, and no result in this second.
  for (let ms = 0; ms < OVERLOAD_MS; ms += 1) {
    arrivals.push(run(`slow ${ms}`, clock.time + 5_000));
    await pass(clock, 1);
    await turn();
  }
  const quiet = run("quiet", clock.time + 5_000, 8 as Slot);

  await pass(clock, GATHER_MAX_MS + PLACE_MAX_MS);
  await turn();

  expect(calls.length).toBeLessThan(ROOMY.inFlightMax * OPEN_CALLS_PER_PLACE);
  expect(calls.flatMap(({ items }) => items)).toContain("quiet");
  for (const call of calls) call.finish();
  expect(await quiet).toBe("did quiet");
});

test("L2: a call is shared by all events, however many requests one of them has", async () => {
  const { run, calls } = given({ ...LIMITS, inFlightMax: 1, queueMax: 100 });
  void run("under way");
  await turn();
  for (let item = 0; item < 20; item += 1) void run(`hot ${item}`);
  void run("quiet", undefined, 8 as Slot);

  calls[0]?.finish();
  await turn();

  expect(calls[1]?.items).toEqual(expect.arrayContaining(["hot 0", "quiet"]));
});

test("F2: a full queue refuses at once, and takes requests again when it has room", async () => {
  const { run, calls } = given({ ...LIMITS, inFlightMax: 1 });
  void run("under way");
  await turn();

  for (const item of ["a", "b", "c", "d"]) void run(item);
  expect(await run("surplus")).toBe("full");

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

test("F2: a request with less time left than those before it is answered at its own deadline", async () => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
  const { run, clock } = given();
  const begin = clock.time;
  const patient = run("patient", begin + 60_000);
  const hurried = run("hurried", begin + 2_000);
  await turn();

  await pass(clock, 2_000 + DEADLINE_SLACK_MS + 1);

  expect(await Promise.race([hurried, patient])).toBe("unanswered");
});
test("F2: calls that hang keep nobody beyond their own deadline, whether they were sent or not", async () => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
  const { run, calls, clock } = given({ ...LIMITS, inFlightMax: 1 });
  const begin = clock.time;
  const sent: Promise<string>[] = [];
  for (let call = 0; call < OPEN_CALLS_PER_PLACE; call += 1) {
    sent.push(run(`sent ${call}`, begin + 2_000));
    await turn();
    await pass(clock, GATHER_MAX_MS + PLACE_MAX_MS);
  }
  const queued = run("queued", begin + 2_500);
  const patient = run("patient", begin + 60_000);
  await turn();

  await pass(clock, begin + 2_000 + DEADLINE_SLACK_MS + 1 - clock.time);
  expect(new Set(await Promise.all(sent))).toEqual(new Set(["unanswered"]));
  await pass(clock, 501);
  expect(await queued).toBe("deadline");

  expect(calls).toHaveLength(OPEN_CALLS_PER_PLACE);
  calls[0]?.finish();
  await pass(clock, GATHER_MAX_MS);
  await turn();
  expect(calls.at(-1)?.items).toEqual(["patient"]);
  calls.at(-1)?.finish();
  expect(await patient).toBe("did patient");
});

test("F2: when nobody waits any more, nothing is sent", async () => {
  const { run, calls, clock } = given();

  expect(await run("late", clock.time)).toBe("deadline");

  expect(calls).toEqual([]);
});

function given(limits = LIMITS) {
  const clock = stoppedClock();
  const calls: { items: string[]; give: (position: number) => void; finish: () => void }[] = [];
  const send = (
    batch: readonly Outgoing<string>[],
    giveResult: (position: number, result: string) => void,
  ): Promise<void> =>
    new Promise((resolve) => {
      const items = batch.map(({ item }) => item);
      const give = (position: number): void => giveResult(position, `did ${items[position]}`);
      const finish = (): void => {
        for (const position of items.keys()) give(position);
        resolve();
      };
      calls.push({ items, give, finish });
    });
  const sender = { send, shed: (reason: string) => reason, unanswered: () => "unanswered" };
  const coalescer = new Coalescer<string, string>(limits, sender, clock);
  const run = (item: string, deadline = clock.time + 1_000, slot = SLOT): Promise<string> =>
    coalescer.run(slot, item, deadline);
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
