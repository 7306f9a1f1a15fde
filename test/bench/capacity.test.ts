/** The capacity model and its simulation, with made-up costs: what can be computed by hand or is known from theory. */
import { expect, test } from "vitest";
import { type Costs, estimate, middleOf } from "../../bench/capacity/costs.ts";
import { demandOf, missesOf, publishedOf, shardReadsOf } from "../../bench/capacity/demand.ts";
import { nonNegativeCosts, nonNegativeLine } from "../../bench/capacity/fit.ts";
import { planOf } from "../../bench/capacity/model.ts";
import { CAPACITY_OPTIONS, readAsked } from "../../bench/capacity/options.ts";
import { type Catalogue, catalogueOf, placeLoad, shardOf } from "../../bench/capacity/popularity.ts";
import { LIMITS } from "../../bench/capacity/product.ts";
import { planLane } from "../../bench/capacity/shard-plan.ts";
import { Agenda } from "../../bench/capacity/simulation/agenda.ts";
import {
  type ClusterRun,
  type ClusterSimulation,
  simulateCluster,
} from "../../bench/capacity/simulation/cluster.ts";
import { simulateMachine } from "../../bench/capacity/simulation/machine.ts";
import { SharedCores } from "../../bench/capacity/simulation/processor.ts";
import { PHASES } from "../../bench/capacity/simulation/record.ts";
import { SLOT_COUNT, type Slot } from "../../shared/domain/slots.ts";

const FREE: Costs = {
  router: {
    read: 0,
    miss: 0,
    eventRead: 0,
    refusal: 0,
    booking: { hot: 0, spread: 0 },
    call: 0,
    heard: 0,
    idleSecond: 0,
  },
  node: { booking: { hot: 0, spread: 0 }, call: 0, batch: 0, eventRead: 0, idleSecond: 0 },
  postgres: {
    booking: { hot: 0, spread: 0 },
    batch: { hot: 0, spread: 0 },
    eventRead: 0,
    idleSecond: 0,
  },
  redis: { published: 0, miss: 0, eventRead: 0, idleSecond: 0 },
  generator: { read: 0, refusal: 0, booking: 0 },
  batchTime: { hot: { fixed: 0, booking: 0 }, spread: { fixed: 0, booking: 0 }, flush: 0 },
};
/** Numbers of the order of a real calibration. */
const COSTS: Costs = {
  router: {
    read: 15,
    miss: 60,
    eventRead: 50,
    refusal: 30,
    booking: { hot: 40, spread: 50 },
    call: 60,
    heard: 4,
    idleSecond: 5_000,
  },
  node: { booking: { hot: 15, spread: 30 }, call: 60, batch: 100, eventRead: 30, idleSecond: 5_000 },
  postgres: {
    booking: { hot: 20, spread: 40 },
    batch: { hot: 300, spread: 300 },
    eventRead: 50,
    idleSecond: 5_000,
  },
  redis: { published: 4, miss: 8, eventRead: 8, idleSecond: 1_000 },
  generator: { read: 8, refusal: 10, booking: 12 },
  batchTime: {
    hot: { fixed: 0.5, booking: 0.02 },
    spread: { fixed: 0.5, booking: 0.04 },
    flush: 0.5,
  },
};
const NOTHING = { reads: 0, refusals: 0, hot: 0, spread: 0, hotReads: 0 };

/** Every event in slot 0, so on shard 0 and in lane 0, the mega event too. */
const ONE_SLOT: Catalogue = { slots: [0 as Slot, 0 as Slot], shares: [1, 0] };
const ONE_COMMAND_A_CALL = { ...LIMITS, callMax: 1, inFlightMax: 10_000, laneQueueMax: 100_000 };

test("M4: a lane that decides one command at a time waits as theory says (M/D/1)", () => {
  for (const utilisation of [0.5, 0.8]) {
    const serviceMs = 2;
    const run = given({
      demand: { ...NOTHING, spread: (utilisation / serviceMs) * 1000 },
      costs: { ...FREE, batchTime: { ...FREE.batchTime, spread: { fixed: serviceMs, booking: 0 } } },
      catalogue: ONE_SLOT,
      limits: { ...ONE_COMMAND_A_CALL, batchMax: 1 },
      shards: 1,
      phaseMs: 60_000,
    });

    const waitMs = (utilisation * serviceMs) / (2 * (1 - utilisation)); // Pollaczek and Khinchine
    expect(run.overall.meanMs).toBeGreaterThan((waitMs + serviceMs) * 0.95);
    expect(run.overall.meanMs).toBeLessThan((waitMs + serviceMs) * 1.05);
    expect(run.shards[0]?.lanes[0]?.utilisation).toBeCloseTo(utilisation, 1);
    expect(run.shards[0]?.lanes[0]?.batch).toBe(1);
  }
});

test("M4: the reads of a router wait as theory says (M/D/1), though none of them is followed", () => {
  const [perSecond, microseconds] = [50_000, 16];
  const run = given({
    demand: { ...NOTHING, reads: perSecond },
    costs: { ...FREE, router: { ...FREE.router, read: microseconds } },
    routers: 1,
    phaseMs: 10_000,
  });

  // At 80 % the mean wait is twice the service time; p50 lies below that mean, p99 far above it.
  expect(run.routers.utilisation).toBeCloseTo(0.8, 1);
  expect(run.routers.reads.p50).toBeGreaterThan((microseconds * 1.5) / 1000);
  expect(run.routers.reads.p50).toBeLessThan((microseconds * 3) / 1000);
  expect(run.routers.reads.p99).toBeGreaterThan((microseconds * 6) / 1000);
  expect(run.routers.reads.p99).toBeLessThan((microseconds * 20) / 1000);
});

test("M4: a lane's batches are as large as theory says once every batch finds more waiting", () => {
  const load = { hot: 0, spread: 10_000 };
  const costs = { ...FREE, batchTime: COSTS.batchTime };
  const planned = planLane(load, costs);
  const run = given({
    demand: { ...NOTHING, ...load },
    costs,
    catalogue: ONE_SLOT,
    limits: ONE_COMMAND_A_CALL,
    shards: 1,
  });

  // 10 a millisecond, 1 ms fixed and 0.04 ms for each: 10 × 1 / (1 - 10 × 0.04) = 16.7.
  expect(planned.batch).toBeCloseTo(16.67, 1);
  expect(planned.cycleMs).toBeCloseTo(1.667, 2);
  expect(run.shards[0]?.lanes[0]?.batch).toBeGreaterThan(planned.batch * 0.95);
  expect(run.shards[0]?.lanes[0]?.batch).toBeLessThan(planned.batch * 1.05);
});

test("M4: every simulated command ends exactly once, also when its shard is lost", () => {
  for (const lost of [undefined, 0]) {
    const run = given({ demand: { ...NOTHING, hot: 2_000, spread: 8_000 }, lost });

    const { decided, unavailable, overloaded } = run.ended;
    expect(run.submitted).toBeGreaterThan(10_000);
    expect(decided + unavailable + overloaded).toBe(run.submitted);
    expect(unavailable > 0).toBe(lost !== undefined);
  }
});

test("M4: more than a lane can decide is refused, not queued for ever", () => {
  const run = given({
    demand: { ...NOTHING, spread: 2_000 },
    costs: { ...FREE, batchTime: { ...FREE.batchTime, spread: { fixed: 1, booking: 0 } } },
    catalogue: ONE_SLOT,
    limits: { ...ONE_COMMAND_A_CALL, batchMax: 1, laneQueueMax: 100 },
    shards: 1,
    phaseMs: 2_000,
  });

  expect(run.phases.after.decided).toBeGreaterThan(1_900);
  expect(run.phases.after.decided).toBeLessThan(2_100);
  expect(run.phases.after.overloaded).toBeGreaterThan(1_800);
  expect(run.phases.after.p99).toBeLessThan(110);
});

test("M4 M6: the same seed gives the same result, another seed another one", () => {
  const options = { demand: { ...NOTHING, reads: 20_000, hot: 1_000, spread: 4_000 }, lost: 1 };

  expect(given({ ...options, seed: 7 })).toEqual(given({ ...options, seed: 7 }));
  expect(given({ ...options, seed: 8 })).not.toEqual(given({ ...options, seed: 7 }));
});

test("M4: a lost shard takes only its own events with it, at once, and comes back", () => {
  const lost = 2;
  const run = given({ demand: { ...NOTHING, spread: 8_000 }, shards: 4, lost, phaseMs: 3_000 });

  run.shards.forEach(({ phases }, shard) => {
    expect(phases.lost.decided === 0).toBe(shard === lost);
    expect(phases.lost.unavailable > 0).toBe(shard === lost);
    expect(phases.after.decided).toBeGreaterThan(0);
    if (shard === lost) return;
    expect([phases.before.unavailable, phases.after.unavailable]).toEqual([0, 0]);
    expect(phases.lost.p99).toBeLessThan(phases.before.p99 * 1.2);
  });
  // What was under way ends with it; for at most a second after it is back some routers still keep away from it.
  expect(run.shards[lost]?.phases.before.unavailable).toBeLessThan(100);
  const [lostAt, backAt] = [3, 6];
  const while503 = run.moments.filter(({ unavailable }) => unavailable > 0).map(({ second }) => second);
  expect(Math.min(...while503)).toBeGreaterThanOrEqual(lostAt - 0.2);
  expect(Math.max(...while503)).toBeGreaterThan(backAt);
  expect(Math.max(...while503)).toBeLessThanOrEqual(backAt + 1);
  const silent = run.moments.filter(({ lostP99 }) => lostP99 === undefined).map(({ second }) => second);
  expect(silent).toEqual(expect.arrayContaining([3.1, 4, 5.9]));
  expect(silent.filter((second) => second < lostAt - 0.2 || second > backAt + 1)).toEqual([]);
});

test("M4: twice the load of an underloaded cluster keeps its processes twice as busy", () => {
  const costs = { ...COSTS, node: { ...COSTS.node, batch: 0 }, batchTime: FREE.batchTime };
  const [once, twice] = [1, 2].map((times) =>
    given({
      demand: { ...NOTHING, reads: 40_000 * times, spread: 500 * times },
      costs,
      routers: 4,
      shards: 2,
      phaseMs: 5_000,
    }),
  ) as [ClusterRun, ClusterRun];

  expect(twice.routers.utilisation / once.routers.utilisation).toBeCloseTo(2, 1);
  once.shards.forEach(({ node }, shard) => {
    expect((twice.shards[shard]?.node ?? 0) / node).toBeGreaterThan(1.8);
    expect((twice.shards[shard]?.node ?? 0) / node).toBeLessThan(2.2);
  });
});

test("M4: routers are as many as arithmetic says for round numbers", () => {
  const costs = { ...FREE, router: { ...FREE.router, read: 20, miss: 20, refusal: 40 } };
  const demand = demandOf({ rps: 1_000_000, bookings: 0.1, soldOut: 1, hot: 0 });
  const plan = planOf({ demand, costs, catalogue: catalogue(), utilisation: 0.5, networkMs: 0 });

  // 900,000 × 20 µs and 100,000 × 40 µs are 22 cores; half of each is used.
  expect(demand).toEqual({ reads: 900_000, refusals: 100_000, hot: 0, spread: 0, hotReads: 0 });
  expect(plan.routers).toBe(44);
  expect(plan.routerUtilisation).toBeCloseTo(0.5, 3);
  expect(plan.shards).toHaveLength(1);
});

test("M4: what every router has to hear leaves each of them less room, until none is left", () => {
  const costs = { ...FREE, router: { ...FREE.router, booking: { hot: 0, spread: 100 } } };
  const demand = demandOf({ rps: 100_000, bookings: 0.1, soldOut: 0, hot: 0 });
  const { events } = publishedOf(demand, catalogue(), 1);
  const withHeard = (microsecondsASecond: number) => {
    const router = { ...costs.router, heard: microsecondsASecond / events };
    return planOf({
      demand,
      costs: { ...costs, router },
      catalogue: catalogue(),
      utilisation: 0.5,
      shards: 1,
      networkMs: 0,
    }).routers;
  };

  // 10,000 × 100 µs are 1 core: 2 routers that are half busy, 4 when half of that half is for hearing.
  expect(withHeard(0)).toBe(2);
  expect(withHeard(250_000)).toBe(4);
  expect(withHeard(500_000)).toBe(Infinity);
});

test("M4: shards are as many as keep the busiest at the utilisation that is wanted, and the mega event's half way to all", () => {
  const costs = { ...FREE, node: { ...FREE.node, booking: { hot: 100, spread: 100 } } };
  const even: Catalogue = {
    slots: Array.from({ length: SLOT_COUNT + 1 }, (_, slot) => (slot % SLOT_COUNT) as Slot),
    shares: [...Array.from({ length: SLOT_COUNT }, () => 1 / SLOT_COUNT), 0],
  };
  const shardsFor = (rps: number, hot: number) =>
    planOf({
      demand: demandOf({ rps, bookings: 1, soldOut: 0, hot }),
      costs,
      catalogue: even,
      utilisation: 0.5,
      networkMs: 0,
    });

  // 20,000 × 100 µs are 2 cores, so 4 shards at a half.
  expect(shardsFor(20_000, 0).shards).toHaveLength(4);
  expect(shardsFor(20_000, 0).ordinary).toBeCloseTo(0.5, 3);
  // 5,000 of 25,000 for the mega event: half a core beside its shard's part of 2 cores, which may be a quarter.
  expect(shardsFor(25_000, 0.2).megaMax).toBe(0.75);
  expect(shardsFor(25_000, 0.2).shards).toHaveLength(8);
  // 10,000 for one event are a core: no number of shards carries them at three quarters.
  expect(shardsFor(20_000, 0.5).carried).toBe(false);
});

test("M4: a lane's utilisation is its share of what full batches take", () => {
  const time = { hot: { fixed: 0, booking: 0 }, spread: { fixed: 3, booking: 0.01 }, flush: 1 };
  const costs = { ...FREE, batchTime: time, node: { ...FREE.node, batch: 1_000 } };

  // 500 in 3 + 1 + 1 + 500 × 0.01 = 10 ms are 50,000 a second.
  expect(planLane({ hot: 0, spread: 25_000 }, costs).utilisation).toBeCloseTo(0.5, 6);
  expect(planLane({ hot: 0, spread: 100_000 }, costs)).toMatchObject({ batch: 500, cycleMs: 10 });
  expect(planLane({ hot: 0, spread: 1 }, costs)).toMatchObject({ batch: 1, cycleMs: 5.01 });
  expect(planLane({ hot: 0, spread: 0 }, costs)).toMatchObject({ batch: 0, utilisation: 0 });
});

test("M4: memory and Redis keep from the shards what they are there to keep", () => {
  const one: Catalogue = { slots: [0 as Slot, 1 as Slot], shares: [1, 0] };
  const demand = { ...NOTHING, reads: 1_000_000, spread: 1_000_000 };

  // However often it is read, each of ten memories asks every 0.8 s, and Redis asks a shard every 5 s.
  expect(missesOf(demand, one, 10)).toBeCloseTo(10 / 0.8, 2);
  expect(shardReadsOf(demand, one, 12.5)).toBeCloseTo(1 / 5.08, 2);
  // An event that changes all the time is told of every 10 ms.
  expect(publishedOf(demand, one, 1).events).toBeCloseTo(100, 1);
  expect(missesOf({ ...demand, reads: 1 }, one, 1)).toBeCloseTo(1 / 1.8, 6);
});

test("M4: the load is placed by the product's own hash, all of it, the mega event on one lane", () => {
  const { slots, shares } = catalogue();
  const placed = placeLoad({ slots, shares }, { hot: 300, spread: 700 }, { shards: 5, lanes: 2 });
  const lanes = placed.flat();

  expect(shares.reduce((sum, share) => sum + share, 0)).toBeCloseTo(1, 9);
  expect((shares[0] ?? 0) / (shares[9] ?? 0)).toBeCloseTo(10, 9);
  expect(lanes.reduce((sum, { spread }) => sum + spread, 0)).toBeCloseTo(700, 6);
  expect(lanes.filter(({ hot }) => hot === 300)).toHaveLength(1);
  expect(lanes.filter(({ hot }) => hot !== 0)).toHaveLength(1);
  expect(new Set(slots.map((slot) => shardOf(slot, 5))).size).toBe(5);
  expect([shardOf(0 as Slot, 3), shardOf(1365 as Slot, 3), shardOf(1366 as Slot, 3)]).toEqual([0, 0, 1]);
  expect(shardOf((SLOT_COUNT - 1) as Slot, 3)).toBe(2);
});

test("M4: costs are found again from measurements, and none is negative", () => {
  const [command, call] = [40e-6, 80e-6];
  const observations = [
    [1_000, 1_000],
    [10_000, 2_000],
    [50_000, 400],
  ].map(([commands = 0, calls = 0]) => ({
    counts: [commands, calls],
    cost: commands * command + calls * call,
  }));

  const found = nonNegativeCosts(observations);
  expect(found[0]).toBeCloseTo(command, 9);
  expect(found[1]).toBeCloseTo(call, 9);
  expect(nonNegativeLine([10, 100, 500].map((x) => ({ x, y: 3 + 0.5 * x })))).toEqual({
    fixed: expect.closeTo(3, 6) as number,
    slope: expect.closeTo(0.5, 6) as number,
  });
  // The best line through these falls below zero at x = 0: then there is no fixed cost.
  const { fixed, slope } = nonNegativeLine([10, 20, 40].map((x) => ({ x, y: x * 2 - 3 })));
  expect(fixed).toBe(0);
  expect(slope).toBeGreaterThan(1.7);
});

test("M4: an estimate reaches from the smallest to the largest of the rounds", () => {
  const rounds = [10, 30, 11].map((read) => ({ ...COSTS, router: { ...COSTS.router, read } }));

  expect(middleOf(rounds)).toEqual({ ...COSTS, router: { ...COSTS.router, read: 11 } });
  expect(estimate(rounds, ({ router }) => router.read * 2)).toEqual({ value: 22, low: 20, high: 60 });
});

test("M4: a machine whose cores are all busy answers as often as its cores allow", () => {
  const simulate = (costs: Costs, cores: number | "apart", others = 0) =>
    simulateMachine({
      costs,
      cores,
      others,
      connections: 64,
      bookings: 0,
      catalogue: ONE_SLOT,
      limits: LIMITS,
      shards: 1,
      routers: 1,
      warmUpMs: 500,
      countedMs: 1_000,
      seed: 1,
    }).perSecond;
  const costs = {
    ...FREE,
    router: { ...FREE.router, read: 20, miss: 20 },
    generator: { ...FREE.generator, read: 10 },
  };

  // On one core 30 µs a request, and apart both are on one; on two the router's thread is what is full.
  expect(simulate(costs, 1)).toBeCloseTo(1_000_000 / 30, -3);
  expect(simulate(costs, 2)).toBeCloseTo(1_000_000 / 20, -3);
  expect(simulate(costs, "apart")).toBeCloseTo(1_000_000 / 30, -3);
  // Half a core that others use is missing on each of two by a quarter, or on one by half.
  expect(simulate(costs, "apart", 0.5)).toBeCloseTo((1_000_000 / 30) * 0.75, -3);
  expect(simulate(costs, 1, 0.5)).toBeCloseTo(1_000_000 / 60, -3);
});

test("M4: threads that share cores get equal parts of them", () => {
  const agenda = new Agenda();
  const cores = new SharedCores(agenda, 2);
  const ended: [string, number][] = [];
  const [a, b, c] = [cores.thread(), cores.thread(), cores.thread()];
  a.run(2, () => ended.push(["a", agenda.now]));
  b.run(4, () => ended.push(["b", agenda.now]));
  c.run(4, () => ended.push(["c", agenda.now]));
  a.run(1, () => ended.push(["a again", agenda.now]));

  while (agenda.step());

  // Three on two cores go at two thirds: 2 of work takes 3, the next 1 takes 1.5, then two are left for 1 more each.
  expect(ended.map(([name, at]) => [name, Number(at.toFixed(6))])).toEqual([
    ["a", 3],
    ["a again", 4.5],
    ["b", 5.5],
    ["c", 5.5],
  ]);
});

test("M4: the agenda is gone through by time, and in the order of entry at the same time", () => {
  const agenda = new Agenda();
  const done: number[] = [];
  const times = [5, 1, 3, 1, 4, 3, 2, 5, 0];
  times.forEach((at, index) => agenda.at(at, () => done.push(index)));

  while (agenda.step());

  expect(done).toEqual([8, 1, 3, 6, 2, 5, 4, 0, 7]);
  expect(agenda.now).toBe(5);
});

test("M4: what is asked of the capacity part has to make sense together", () => {
  const defaults = Object.fromEntries(
    Object.entries(CAPACITY_OPTIONS).map(([name, option]) => [name, option.default]),
  ) as Record<keyof typeof CAPACITY_OPTIONS, number>;

  expect(readAsked(defaults)).toEqual({
    rps: 1_000_000,
    bookings: 0.05,
    soldOut: 0.5,
    hot: 0.2,
    shards: undefined,
    utilisation: 0.6,
    reuse: false,
    seed: 1,
  });
  expect(readAsked({ ...defaults, shards: 8, reuse: 1 })).toMatchObject({ shards: 8, reuse: true });
  expect(() => readAsked({ ...defaults, rps: 10_000_000, bookings: 1, "sold-out": 0.9 })).toThrow(
    "1000000 bookings",
  );
  for (const { default: value, min, max } of Object.values(CAPACITY_OPTIONS)) {
    expect(value).toBeGreaterThanOrEqual(min);
    expect(value).toBeLessThanOrEqual(max);
  }
});

function catalogue(): Catalogue {
  return catalogueOf({ events: 2_000, exponent: 1, seed: 1 });
}

/** A short run of a small cluster, unless said otherwise. */
function given(options: Partial<ClusterSimulation>): ClusterRun {
  const run = simulateCluster({
    demand: NOTHING,
    costs: COSTS,
    batchTimeShares: [1],
    catalogue: catalogue(),
    limits: LIMITS,
    shards: 4,
    routers: 2,
    missed: 0,
    networkMs: 0,
    warmUpMs: 200,
    phaseMs: 1_000,
    lost: undefined,
    seed: 1,
    ...options,
  });
  const seen = PHASES.reduce((sum, phase) => sum + run.phases[phase].decided, 0);
  expect(seen).toBeLessThanOrEqual(run.ended.decided);
  return run;
}
