/**
 * The simulation (test/simulation/) keeps the rules for many seeds, repeats a seed to the last step, and finds bugs that are
 * planted in a copy of the sources.
 *
 * Other seeds:                    TEST_SEED=<seed> npx vitest run test/faults/simulation
 * One of them, with its story:    npm run simulate -- --from <seed>
 */
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { copySources, type Planting } from "../support/planted-copy.ts";
import type { OverloadFigures } from "../simulation/overload.ts";
import { start } from "../support/run.ts";

const SEEDS = 100;
/** A planted bug is found among so many seeds. */
const SEEDS_MAX = 150;
/** On a machine that is busy with much else. */
const TIMEOUT_MS = 240_000;

interface Plant extends Planting {
  readonly bug: string;
  /** One of the rules that may break first. */
  readonly rules: readonly string[];
  /** The only kind of fault, so that few seeds are needed. */
  readonly fault: string;
  /** What must be planted beside it, because a second guard would hide the bug. */
  readonly beside?: readonly Planting[];
}

const PLANTS: readonly Plant[] = [
  {
    bug: "after a lost reply the client is told another key than the one that was used",
    rules: ["F1"],
    fault: "all answers lost",
    file: "router/http/bookings.ts",
    find: 'result.outcome === "outcome_unknown" ? unknownUnder(key)',
    replace: 'result.outcome === "outcome_unknown" ? unknownUnder(newIdempotencyKey())',
  },
  {
    bug: "a router takes the no of its second try for final",
    rules: ["F1"],
    fault: "broken connections",
    file: "router/shards/shard-client.ts",
    find: "lostBefore ? afterLostTry(result) : result",
    replace: "result",
  },
  {
    bug: "a node takes the no of its second try for final",
    rules: ["F1"],
    fault: "database connections break",
    file: "shard-node/decide/decider.ts",
    find: "result: mayRunLater ? afterLostTry(result) : result,",
    replace: "result: attempt > 2 ? afterLostTry(result) : result,",
  },
  {
    bug: "a commit in doubt is forgotten when the second try fails otherwise",
    rules: ["F1"],
    fault: "database connections break",
    file: "shard-node/decide/decider.ts",
    find: "inDoubt ||= error instanceof",
    replace: "inDoubt = error instanceof",
  },
  {
    bug: "a call is tried again after its deadline",
    rules: ["F2"],
    fault: "all answers lost",
    file: "router/shards/shard-client.ts",
    find: "const timeoutMs = deadline - this.#options.clock.elapsed();",
    replace: "const timeoutMs = Math.max(500, deadline - this.#options.clock.elapsed());",
  },
  {
    bug: "the commands of one event go to two lanes",
    rules: ["B8"],
    fault: "none",
    file: "shard-node/decide/lanes.ts",
    find: "(this.#taken.get(slot as Slot)?.lane ?? lane) === lane;",
    replace: "true;",
  },
  {
    bug: "one buyer's flood is let in, and his bookings are decided one after the other while all others wait",
    rules: ["F3", "L1"],
    fault: "none",
    file: "shard-node/decide/lanes.ts",
    find: "fill(this.#booking, batchMax);",
    replace: "fill(this.#booking, 1);",
    beside: [
      {
        file: "shard-node/decide/lanes.ts",
        find: "if (user !== undefined && !this.#users.enter(user)) return",
        replace: 'if (user === "") return',
      },
      {
        file: "router/shards/shard-client.ts",
        find: "if (user !== undefined && !this.#users.enter(user)) {",
        replace: 'if (user === "") {',
      },
    ],
  },
  {
    bug: "a router lets a buyer have any number of commands under way",
    rules: ["L1"],
    fault: "none",
    file: "router/shards/shard-client.ts",
    find: "if (user !== undefined && !this.#users.enter(user)) {",
    replace: 'if (user === "") {',
  },
  {
    bug: "the cache writes without looking at the version",
    rules: ["C1", "C2"],
    fault: "none",
    file: "router/cache/event-cache.ts",
    find: "version > knownVersion ? new CachedEvent",
    replace: "version > 0 ? new CachedEvent",
  },
  {
    bug: "the cache asks Redis for what it has just forgotten",
    rules: ["C1", "C2"],
    fault: "Redis cut off",
    file: "router/cache/event-cache.ts",
    find: "this.#forgottenUntil > moment;",
    replace: "this.#forgottenUntil > Number.MAX_VALUE;",
  },
  {
    bug: "every reader loads an event for itself",
    rules: ["C6"],
    fault: "none",
    file: "router/cache/event-cache.ts",
    find: "return this.#loads.get(id) ?? this.#started",
    replace: "return this.#started",
  },
];

const seed = Number(process.env["TEST_SEED"] ?? 1);
const copy = copySources();
afterAll(() => copy[Symbol.dispose]());

async function simulate(directory: string | undefined, ...args: readonly string[]) {
  const script = "test/simulation/main.ts";
  return start(directory === undefined ? script : join(directory, script), {}, args).exited;
}

test(
  "A2 A5 B1 B3 B4 B5 B8 B9 B11 C1 C2 C3 C5 C6 F1 F2 F3 F4 F8 L1 R2 R3 R4: whatever fails, simulated clusters keep the rules",
  async () => {
    const { code, stdout } = await simulate(undefined, "--from", String(seed), "--seeds", String(SEEDS));
    expect([code, stdout.split("\n").slice(-400).join("\n")]).toEqual([0, expect.any(String)]);
  },
  TIMEOUT_MS,
);

test("H3: one seed is one run, whatever ran before", async () => {
  const tracesOf = async (from: number, seeds: number) => {
    const { stdout } = await simulate(
      undefined,
      "--traces",
      "--from",
      String(from),
      "--seeds",
      String(seeds),
    );
    return stdout.split("\n").filter((line) => line.startsWith("trace "));
  };
  const [long, short] = await Promise.all([tracesOf(1, 8), tracesOf(6, 3)]);
  expect(short).toHaveLength(3);
  expect(long.slice(5)).toEqual(short);
});

test("L2 L5: at three times the peak a shard books as at the peak, refuses at once, and lets a quiet event pass", async () => {
  const { code, stdout } = await start("test/simulation/overload.ts", {}, ["10"]).exited;
  expect(code).toBe(0);
  const figures = JSON.parse(stdout) as OverloadFigures;

  const { peakPerSecond, bookedPerSecond, bookedP99, refusedP99, hotP99, quietP99, refusals } = figures;
  expect(bookedPerSecond).toBeGreaterThan(0.9 * peakPerSecond);
  expect(refusedP99).toBeLessThan(20);
  expect(Object.keys(refusals)).toEqual(["overloaded"]);
  expect(bookedP99).toBeLessThan(1_300);
  expect(hotP99.after).toBeLessThan(1.5 * hotP99.before);
  expect(quietP99.beside).toBeLessThan(3 * quietP99.alone);
});

test.for(PLANTS)("H3: the simulation finds: $bug", { timeout: TIMEOUT_MS }, async (plant) => {
  const plantings = [plant, ...(plant.beside ?? [])];
  for (const planting of plantings) copy.plant(planting);
  const args = ["--from", "1", "--seeds", String(SEEDS_MAX), "--fault", plant.fault];
  const { code, stdout } = await simulate(copy.directory, ...args);
  for (const planting of plantings) copy.restore(planting);

  expect(code).toBe(1);
  expect(plant.rules).toContain(/^seed \d+ breaks (\w+):/m.exec(stdout)?.[1]);
});
