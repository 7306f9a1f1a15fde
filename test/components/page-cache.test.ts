/** The cache of lists alone, with a clock that stands still. */
import { expect, test } from "vitest";
import { PageCache, type Page } from "../../router/cache/page-cache.ts";
import { stoppedClock } from "../support/clock.ts";
import { snapshot, SNAPSHOT_ID } from "../support/snapshots.ts";

test("C8: memory answers a page for less than a second, and however many wait for it, one load is under way", async () => {
  const { pages, clock, loads, answer } = given();

  const waiting = Array.from({ length: 300 }, async () => pages.read(null, 20));
  const other = pages.read(null, 21);
  expect(loads.map(({ limit }) => limit)).toEqual([20, 21]);
  answer();
  const [first] = await Promise.all([...waiting, other]);

  clock.time += 799;
  expect(pages.read(null, 20)).toBe(first);
  clock.time += 1;
  expect(pages.read(null, 20)).toBeInstanceOf(Promise);
  void pages.read(SNAPSHOT_ID, 20);
  expect(loads).toHaveLength(4);
});

test("C8 C1: a page from before an event was created here is not used, and those who ask since share one more load", async () => {
  const { pages, clock, loads, answer } = given();
  void pages.read(null, 20);
  clock.time += 10;
  pages.created();
  clock.time += 10;

  const lists = Array.from({ length: 50 }, async () => pages.read(null, 20));
  expect(loads).toHaveLength(1);
  answer();
  await expect.poll(() => loads.length).toBe(2);
  answer();

  for (const list of await Promise.all(lists)) expect(list).toMatchObject({ asOf: clock.time });
  expect(loads).toHaveLength(2);
  pages.created();
  clock.time += 1;
  expect(pages.read(null, 20)).toEqual(expect.objectContaining({ asOf: clock.time - 1 }));
  clock.time += 1;
  pages.created();
  expect(pages.read(null, 20)).toBeInstanceOf(Promise);
});

test("C8 P2: a list from a replica that lacks what memory has forgotten is asked of the primary", async () => {
  const { pages, clock, loads, answer, forget } = given();
  clock.time += 500;
  const list = pages.read(null, 20);
  forget(clock.time - 100);

  answer(400);
  await expect.poll(() => loads.map(({ notBefore }) => notBefore)).toEqual([-Infinity, Infinity]);
  answer();

  expect(await list).toMatchObject({ asOf: clock.time });
  // What memory learns and forgets later than a page is shown by no page from before.
  forget(clock.time + 1);
  clock.time += 2;
  expect(pages.read(null, 20)).toBeInstanceOf(Promise);
});

test("C8: a failure is told to all who wait, and not kept", async () => {
  const { pages, loads, fail } = given();
  const lists = [pages.read(null, 20), pages.read(null, 20)];
  fail();
  for (const list of lists) expect(await list).toEqual({ outcome: "overloaded" });
  void pages.read(null, 20);
  expect(loads).toHaveLength(2);
});

function given() {
  const clock = stoppedClock();
  const loads: { limit: number; notBefore: number }[] = [];
  const waiting: { askedAt: number; resolve: (page: Page | { outcome: "overloaded" }) => void }[] = [];
  let forgottenUntil = Number.NEGATIVE_INFINITY;
  const pages = new PageCache({
    clock,
    forgottenUntil: () => forgottenUntil,
    load: async (_before, limit, notBefore) => {
      loads.push({ limit, notBefore });
      return new Promise((resolve) => waiting.push({ askedAt: clock.time, resolve }));
    },
    counted: () => undefined,
  });
  return {
    pages,
    clock,
    loads,
    forget: (until: number) => (forgottenUntil = until),
    /** All loads under way, from a source that is so far behind. */
    answer: (ageMs = 0): void => {
      for (const { askedAt, resolve } of waiting.splice(0))
        resolve({ events: [snapshot(1).event], asOf: askedAt - ageMs });
    },
    fail: (): void => {
      for (const { resolve } of waiting.splice(0)) resolve({ outcome: "overloaded" });
    },
  };
}
