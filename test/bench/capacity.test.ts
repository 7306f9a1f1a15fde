/** The capacity model, with made-up costs: everything here can be computed by hand. */
import { expect, test } from "vitest";
import { type Done, eachProcess, type Load, type Process } from "../../bench/capacity/load.ts";
import { type Costs, costsOf, medianCosts, needsOf, predict } from "../../bench/capacity/needs.ts";
import { outcomeOf } from "../../bench/parts/capacity.ts";

const NOTHING: Done = { reads: 0, misses: 0, refusals: 0, bookings: 0, batches: 0 };
/** Microseconds. */
const COSTS: Costs = {
  router: { reads: 20, misses: 60, refusals: 40, bookings: 100, batches: 200 },
  hearing: { ...NOTHING, bookings: 10 },
  node: { ...NOTHING, misses: 10, bookings: 30, batches: 120 },
  postgres: { ...NOTHING, bookings: 50, batches: 400 },
  redis: { ...NOTHING, misses: 5, bookings: 10 },
};
const ASKED = { rps: 100_000, bookings: 0.1, soldOut: 0.5, misses: 0.1, batch: 4, utilisation: 0.5 };

/** A load that did this, at these costs times `dearer`. */
function loadOf(done: Partial<Done>, dearer = 1): Load {
  const all = { ...NOTHING, ...done };
  const spent = predict(COSTS, all);
  return { done: all, spent: eachProcess((process) => spent[process] * dearer), sent: 0 };
}

test("M4: the costs are found again from what loads have done and spent", () => {
  const found = costsOf({
    reads: [loadOf({ reads: 10_000, misses: 100 }), loadOf({ reads: 5_000, misses: 4_000 })],
    refusals: loadOf({ refusals: 3_000 }),
    bookings: [loadOf({ bookings: 8_000, batches: 200 }), loadOf({ bookings: 2_000, batches: 1_500 })],
  });
  for (const process of Object.keys(COSTS) as Process[]) {
    for (const [thing, cost] of Object.entries(COSTS[process]))
      expect([process, thing, found[process][thing as keyof Done]]).toEqual([
        process,
        thing,
        expect.closeTo(cost, 6),
      ]);
  }
});

test("M4: no cost is negative, however noisy the loads are", () => {
  const [cheap, dear] = [0.5, 2];
  const found = costsOf({
    reads: [loadOf({ reads: 10_000, misses: 100 }, dear), loadOf({ reads: 5_000, misses: 4_000 }, cheap)],
    refusals: loadOf({ refusals: 3_000 }),
    bookings: [
      loadOf({ bookings: 8_000, batches: 200 }, cheap),
      loadOf({ bookings: 2_000, batches: 1_500 }, 10 * dear),
    ],
  });
  expect(found.router).toMatchObject({ bookings: 0 });
  expect(found.postgres.batches).toBeGreaterThan(0);
  for (const costs of Object.values(found))
    expect(Math.min(...Object.values(costs))).toBeGreaterThanOrEqual(0);
});

test("M4: a cluster is as large as arithmetic says for round numbers", () => {
  // A second has 90,000 reads, 9,000 of them misses, 5,000 refusals, 5,000 bookings and 1,250 batches.
  expect(needsOf(COSTS, ASKED)).toEqual({
    // 1.8 + 0.54 + 0.2 + 0.5 + 0.25 cores; every router keeps 0.05 of its half core for hearing, which is in the bookings.
    routers: Math.ceil((3.29 - 0.05) / 0.45),
    // 0.09 + 0.15 + 0.15 cores.
    shards: 1,
    postgresCores: expect.closeTo((0.25 + 0.5) / 0.5, 6) as number,
    redis: expect.closeTo(0.045 + 0.05, 6) as number,
    // Each takes the node 30 + 120 / 4 microseconds of half a second.
    bookingsOfOneShard: expect.closeTo(500_000 / 60, 6) as number,
  });
  expect(needsOf(COSTS, { ...ASKED, rps: 1_000_000 }).shards).toBe(8);
});

test("M4: when hearing of changes fills a router, no number of routers carries the load, and the report says so", () => {
  const asked = { ...ASKED, rps: 1_000_000 };
  expect(needsOf(COSTS, asked).routers).toBe(Infinity);
  const routers = outcomeOf(COSTS, [loadOf({ reads: 100, bookings: 10, batches: 5 })], asked).figures.find(
    ({ name }) => name.startsWith("routers"),
  );
  expect(routers).toMatchObject({ value: Infinity, target: { met: false } });
});

test("M4: the report holds the prediction against what was measured, and misses its target beyond 20 %", () => {
  const mix = { reads: 700, misses: 200, refusals: 100, bookings: 200, batches: 40 };
  const errorWith = (dearer: number) =>
    outcomeOf(COSTS, [loadOf(mix), loadOf(mix, dearer)], ASKED).figures[0];

  expect(errorWith(1)).toMatchObject({ value: expect.closeTo(0, 6) as number, target: { met: true } });
  // Two loads, one of them 1.4 times as dear: 1 / 1.2 of what was measured was predicted.
  expect(errorWith(1.4)).toMatchObject({
    value: expect.closeTo(100 / 6, 6) as number,
    target: { met: true },
  });
  expect(errorWith(1.6)).toMatchObject({
    value: expect.closeTo(300 / 13, 6) as number,
    target: { met: false },
  });
  expect(errorWith(0.6)).toMatchObject({ value: expect.closeTo(25, 6) as number, target: { met: false } });
});

test("M4: a cost is the median of the rounds", () => {
  const rounds = [10, 30, 11].map((reads) => ({ ...COSTS, router: { ...COSTS.router, reads } }));
  expect(medianCosts(rounds)).toEqual({ ...COSTS, router: { ...COSTS.router, reads: 11 } });
});
