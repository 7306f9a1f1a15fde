/** Proof that the simulation (test/simulation/) finds bugs: each is planted in a copy of the sources, one at a time. */
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { copySources, type Planting } from "../support/planted-copy.ts";
import { start } from "../support/run.ts";

/** A planted bug is found among so many seeds. */
const SEEDS_MAX = 250;
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
    rules: ["B8", "J2"],
    fault: "none",
    file: "shard-node/decide/lanes.ts",
    find: "return taken.lane === lane && ",
    replace: "return ",
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
    bug: "a follower of the log misses the first change of an answer",
    rules: ["J2"],
    fault: "none",
    file: "shard-node/read/followers.ts",
    find: 'return { outcome: "changes", changes, position, asOf };',
    replace: 'return { outcome: "changes", changes: changes.slice(1), position, asOf };',
  },
  {
    bug: "an answer says a position before its booking",
    rules: ["J5"],
    fault: "none",
    file: "shard-node/rpc.ts",
    find: "positionText(parts.shardId, position)",
    replace: "positionText(parts.shardId, position - 1)",
  },
  {
    bug: "every reader loads an event for itself",
    rules: ["C6"],
    fault: "none",
    file: "router/cache/event-cache.ts",
    find: "return this.#loads.get(id) ?? this.#started",
    replace: "return this.#started",
  },
  {
    bug: "a message is acknowledged before its requests have their outcomes",
    rules: ["Q2"],
    fault: "none",
    file: "shard-node/queue/intake.ts",
    find: "    const results = await this.#decide(",
    replace: "    chunk.at(-1)?.delivery.acknowledge(true);\n    const results = await this.#decide(",
  },
  {
    bug: "the requests behind one that a fault left undecided are decided before it",
    rules: ["Q4"],
    fault: "database connections break",
    file: "shard-node/queue/intake.ts",
    find: "lanes.run(request, { deadline, mayBegin })",
    replace: "lanes.run(request, { deadline })",
  },
  {
    bug: "the database forgets that a request has lapsed, and decides it",
    rules: ["Q2", "Q3"],
    fault: "node crash",
    file: "test/simulation/store.ts",
    find: "    if (known !== undefined) return known;",
    replace: '    if (known !== undefined) return known.outcome === "lapsed" ? undefined : known;',
  },
  {
    bug: "after the copy, the log is followed from where it ends by then",
    rules: ["V1"],
    fault: "none",
    file: "read-side/follow/follower.ts",
    find: "      const next = { ...known, copied };",
    replace: `      const next =
        copied === null
          ? { ...known, copied, position: (await this.#changesAfter(null, 0, signal)).position }
          : { ...known, copied };`,
  },
  {
    bug: "the read side's position is moved in a transaction of its own, before the rows",
    rules: ["V1"],
    fault: "read side crash",
    file: "test/simulation/views.ts",
    find: `    return this.#statement(() => {
      if (!this.#moved(shard, from, to)) return false;`,
    replace: `    if (!(await this.#statement(() => this.#moved(shard, from, to)))) return false;
    return this.#statement(() => {`,
  },
  {
    bug: "a write to the read side that comes late moves the position back",
    rules: ["V1"],
    fault: "read side's connections break",
    file: "test/simulation/views.ts",
    find: "    if (position !== from.position || copied !== from.copied) return false;",
    replace: "    if (position === undefined || copied === undefined) return false;",
  },
];

const copy = copySources();
afterAll(() => copy[Symbol.dispose]());

test.for(PLANTS)("H3: the simulation finds: $bug", { timeout: TIMEOUT_MS }, async (plant) => {
  const plantings = [plant, ...(plant.beside ?? [])];
  for (const planting of plantings) copy.plant(planting);
  const args = ["--from", "1", "--seeds", String(SEEDS_MAX), "--fault", plant.fault];
  const { code, stdout } = await start(join(copy.directory, "test/simulation/main.ts"), {}, args).exited;
  for (const planting of plantings) copy.restore(planting);

  expect(code).toBe(1);
  expect(plant.rules).toContain(/^seed \d+ breaks (\w+):/m.exec(stdout)?.[1]);
});
