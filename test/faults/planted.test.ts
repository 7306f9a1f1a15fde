/**
 * Proof that the suite can fail. Each plant is a bug that somebody could really write; it is planted in a copy of the
 * sources, and the tests of the rule that it breaks must turn red there. Unplanted, the same tests are green.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { expect, test } from "vitest";
import { copySources, type Planting } from "../support/planted-copy.ts";
import { findRedisServer } from "../support/redis.ts";

const ROOT = resolve(import.meta.dirname, "../..");

const FUNCTIONS = "migrations/shard/0003_decide-batch.sql";
const STORE = "test/components/booking-store.test.ts";
const STORIES = "test/components/booking-store.property.test.ts";
const DECIDER = "test/components/decider.test.ts";
const LANES = "test/components/lanes.test.ts";
const OWNERS = "test/components/slot-owners.test.ts";
const TOKENS = "test/unit/key-set.test.ts";
const MIGRATIONS = "test/components/migrations.test.ts";
const OLD_SNAPSHOT = "test/components/old-snapshot.test.ts";
const CACHE = "test/cluster/cache.test.ts";
const CONNECTION = "test/components/connection.test.ts";

interface Plant extends Planting {
  readonly bug: string;
  /** The rule whose tests must turn red. */
  readonly rule: string;
  /** Where those tests are. */
  readonly suite: string;
}

const PLANTS: readonly Plant[] = [
  {
    bug: "events are read without their lock",
    rule: "B1",
    suite: STORE,
    file: FUNCTIONS,
    find: "    limit 1\n    for update\n",
    replace: "    limit 1\n",
  },
  {
    bug: "a ticket more than is left may be sold",
    rule: "B1",
    suite: STORIES,
    file: FUNCTIONS,
    find: "elsif v_command.quantity > v_left[v_position] then",
    replace: "elsif v_command.quantity > v_left[v_position] + 1 then",
  },
  {
    bug: "an event counts as plain although more is wanted than is left",
    rule: "B8",
    suite: STORE,
    file: FUNCTIONS,
    find: "and w.tickets <= v_available[w.event]\n",
    replace: "",
  },
  {
    bug: "in a rush nobody asks whether a user has bookings already",
    rule: "B3",
    suite: STORE,
    file: FUNCTIONS,
    find: "b.event_id = any (p_event_ids) and b.user_id = any (p_users)",
    replace: "b.event_id = any (p_event_ids) and b.user_id is null",
  },
  {
    bug: "a batch is sent before the one ahead of it holds its locks",
    rule: "B8",
    suite: LANES,
    file: "shard-node/decide/lanes.ts",
    find: "await Promise.race([locked.promise, run]);",
    replace: "await Promise.race([locked.promise, run, Promise.resolve()]);",
  },
  {
    bug: "cancelling an expired hold frees its tickets again",
    rule: "B2",
    suite: STORIES,
    file: FUNCTIONS,
    find: "if v_booking.status <> 'expired' then",
    replace: "if true then",
  },
  {
    bug: "the user's limit is not checked",
    rule: "B3",
    suite: STORE,
    file: FUNCTIONS,
    find: "elsif v_command.tickets + v_command.quantity > v_max[v_position] then",
    replace: "elsif v_command.quantity > v_max[v_position] then",
  },
  {
    bug: "a lane puts two commands of one buyer into one batch",
    rule: "B3",
    suite: LANES,
    file: "shard-node/decide/lanes.ts",
    find: "} else if (buyer !== undefined && buyers.has(buyer)) {",
    replace: "} else if (buyer === command.deadline.toString()) {",
  },
  {
    bug: "a second try takes its own bookings for a client's replay",
    rule: "B4",
    suite: DECIDER,
    file: "shard-node/store/batch.ts",
    find: "outcome: row.id === id ?",
    replace: "outcome: row.status === command.key ?",
  },
  {
    bug: "a replay is not recognised",
    rule: "B5",
    suite: STORE,
    file: FUNCTIONS,
    find: "elsif v_command.same_key then",
    replace: "elsif false then",
  },
  {
    bug: "a key that was used for other content is answered as a replay",
    rule: "B5",
    suite: STORE,
    file: FUNCTIONS,
    find: "case when v_command.same_content then 'replayed' else 'idempotency_key_reused' end",
    replace: "'replayed'",
  },
  {
    bug: "due holds keep their tickets until they are swept",
    rule: "B6",
    suite: STORE,
    file: FUNCTIONS,
    find: "b.expires_at > v_since and b.expires_at <= v_now",
    replace: "b.expires_at > v_since and v_now is null",
  },
  {
    bug: "an expired hold is confirmed without asking for its tickets",
    rule: "B7",
    suite: STORE,
    file: FUNCTIONS,
    find: "and v_available[v_position] >= v_booking.quantity\n",
    replace: "",
  },
  {
    bug: "the version does not rise",
    rule: "B9",
    suite: STORE,
    file: FUNCTIONS,
    find: "set available_tickets = x.available - coalesce(x.taken, 0), version = e.version + 1,",
    replace: "set available_tickets = x.available - coalesce(x.taken, 0),",
  },
  {
    bug: "the last moment of the sales window is inside it",
    rule: "B10",
    suite: STORIES,
    file: FUNCTIONS,
    find: "(x.event).sales_end_at > v_now",
    replace: "(x.event).sales_end_at >= v_now",
  },
  {
    bug: "anybody may settle anybody's booking",
    rule: "B11",
    suite: STORIES,
    file: FUNCTIONS,
    find: "elsif v_booking.id is null or v_booking.user_id <> p_settle_users[i] then",
    replace: "elsif v_booking.id is null then",
  },
  {
    bug: "the fence is not read",
    rule: "R3",
    suite: STORE,
    file: FUNCTIONS,
    find: "select array_agg(o.slot is not null order by x.position)",
    replace: "select array_agg(true order by x.position)",
  },
  {
    bug: "batches do not hold the lock that keeps slots in place",
    rule: "R3",
    suite: STORE,
    file: FUNCTIONS,
    find: "end if;\n\n  perform pg_advisory_xact_lock_shared(slots_lock_key());\n",
    replace: "end if;\n",
  },
  {
    bug: "a shard obeys a change of slot owners that another has overtaken",
    rule: "R3",
    suite: OWNERS,
    file: "migrations/shard/0002_slots.sql",
    find: " where t.token <= p_token;",
    replace: ";",
  },
  {
    bug: "an event is looked for from its oldest version",
    rule: "G3",
    suite: OLD_SNAPSHOT,
    file: FUNCTIONS,
    find: "where e.id between x.id and x.id\n    order by e.id desc\n",
    replace: "where e.id between x.id and x.id\n    order by e.id\n",
  },
  {
    bug: "due holds are looked for among all that have ever ended",
    rule: "G3",
    suite: OLD_SNAPSHOT,
    file: FUNCTIONS,
    find: "coalesce(min((x.event).updated_at), v_since)",
    replace: "v_since",
  },
  {
    bug: "bookings point at the row that batches update",
    rule: "G3",
    suite: OLD_SNAPSHOT,
    file: "migrations/shard/0001_tables.sql",
    find: "event_id        uuid not null references event_ids,",
    replace: "event_id        uuid not null references events,",
  },
  {
    bug: "a migration that was changed after it was applied is taken for the same",
    rule: "G1",
    suite: MIGRATIONS,
    file: "migrations/runner.ts",
    find: "if (file.checksum !== checksum)",
    replace: "if (file.checksum === name)",
  },
  {
    bug: "migrations do not wait for each other",
    rule: "G1",
    suite: MIGRATIONS,
    file: "migrations/runner.ts",
    find: "    await connection.run(ALONE);\n",
    replace: "",
  },
  {
    bug: "the catalog takes a slot's owner from a move that another change has overtaken",
    rule: "R3",
    suite: OWNERS,
    file: "migrations/shards.ts",
    find: "where version = $3 returning",
    replace: "where $3::bigint > 0 returning",
  },
  {
    bug: "the rows of a result are taken from the driver's array",
    rule: "F1",
    suite: CONNECTION,
    file: "shared/database/connection.ts",
    find: ".forEach((row) => void rows.push(row as Row)),",
    replace: ".then((all: readonly unknown[]) => void rows.push(...(all as Row[]))),",
  },
  {
    bug: "a batch that met a fault is given up",
    rule: "F1",
    suite: DECIDER,
    file: "shard-node/decide/decider.ts",
    find: "if (attempt < 2 && error instanceof DatabaseError) continue;",
    replace: "if (attempt < 1 && error instanceof DatabaseError) continue;",
  },
  {
    bug: "a commit in doubt is forgotten when the second try fails otherwise",
    rule: "F1",
    suite: DECIDER,
    file: "shard-node/decide/decider.ts",
    find: "inDoubt ||= error instanceof",
    replace: "inDoubt = error instanceof",
  },
  {
    bug: "a no of the second try is final although the first may still be decided",
    rule: "F1",
    suite: DECIDER,
    file: "shard-node/decide/decider.ts",
    find: "result: mayRunLater ? afterLostTry(result) : result,",
    replace: "result: attempt > 2 ? afterLostTry(result) : result,",
  },
  {
    bug: "after an error that nobody foresaw a commit is forgotten",
    rule: "F8",
    suite: DECIDER,
    file: "shard-node/decide/decider.ts",
    find: "inDoubt || !(error instanceof DatabaseError) ? UNKNOWN : failureOf(error);",
    replace:
      'inDoubt ? UNKNOWN : error instanceof DatabaseError ? failureOf(error) : { outcome: "internal" as const };',
  },
  {
    bug: "a command that nobody waits for any more is decided",
    rule: "F2",
    suite: LANES,
    file: "shard-node/decide/lanes.ts",
    find: "if (waiting.deadline <= now) {",
    replace: "if (waiting.deadline <= 0) {",
  },
  {
    bug: "the cache takes an older version for a newer one",
    rule: "C2",
    suite: CACHE,
    file: "router/cache/event-cache.ts",
    find: "version > knownVersion ? new CachedEvent",
    replace: "version > 0 ? new CachedEvent",
  },
  {
    bug: "a replica may be behind what the router has learned and let go",
    rule: "P2",
    suite: "test/components/replica-reads.test.ts",
    file: "router/cache/event-cache.ts",
    find: "?.learnedAt ?? this.#forgottenUntil;",
    replace: "?.learnedAt ?? Number.NEGATIVE_INFINITY;",
  },
  {
    bug: "Redis takes an older version for a newer one",
    rule: "C2",
    suite: CACHE,
    file: "shared/redis/redis.ts",
    find: "if version > current then",
    replace: "if version > 0 then",
  },
  {
    bug: "a part of a token's signature is enough",
    rule: "S1",
    suite: TOKENS,
    file: "router/callers/hs256.ts",
    find: "return timingSafeEqual(expected, received);",
    replace: "return timingSafeEqual(expected.subarray(2), received.subarray(2));",
  },
  {
    bug: "an extension that a token says must be understood is passed over",
    rule: "S1",
    suite: TOKENS,
    file: "router/callers/tokens.ts",
    find: '|| "crit" in header',
    replace: "",
  },
  {
    bug: "writes that were let through without being counted are not taken off the limit",
    rule: "S6",
    suite: "test/components/write-limits.test.ts",
    file: "router/callers/write-limits.ts",
    find: "points: max - this.#uncounted",
    replace: "points: max",
  },
];

const isRedisMissing = findRedisServer() === undefined;
const needsRedis = ({ file }: Plant) => file === "shared/redis/redis.ts";

test("H3: without a plant, the tests that catch them are green", { timeout: 120_000 }, async () => {
  using copy = copySources();
  const plants = PLANTS.filter((plant) => !isRedisMissing || !needsRedis(plant));
  const suites = new Set(plants.map(({ suite }) => suite));

  const run = await runTests(copy.directory, [...suites], anyOf(plants));

  expect(run.failed).toEqual([]);
  expect(run.exitCode).toBe(0);
  for (const { rule } of plants) expect(run.passed.some((name) => rulesOf(name).includes(rule))).toBe(true);
});

test.for(PLANTS)("H3: caught by $rule: $bug", { timeout: 120_000 }, async (plant, { skip }) => {
  skip(isRedisMissing && needsRedis(plant), "SKIPPED: no redis-server or valkey-server is installed");
  using copy = copySources();
  copy.plant(plant);

  const run = await runTests(copy.directory, [plant.suite], anyOf([plant]));

  expect(run.exitCode).not.toBe(0);
  expect(run.failed.filter((name) => rulesOf(name).includes(plant.rule))).not.toEqual([]);
});

interface TestRun {
  readonly exitCode: number | null;
  /** Names of tests. */
  readonly failed: readonly string[];
  readonly passed: readonly string[];
}

/** Runs these test files as a process of their own; of their tests only those with such a name. */
async function runTests(directory: string, files: readonly string[], names: string): Promise<TestRun> {
  const report = join(directory, "report.json");
  const vitest = join(ROOT, "node_modules/vitest/vitest.mjs");
  const flags = [
    "--no-cache",
    "--bail=1",
    "--testTimeout=20000",
    "--reporter=json",
    `--outputFile=${report}`,
  ];
  const child = spawn(process.execPath, [vitest, "run", ...files, "--testNamePattern", names, ...flags], {
    cwd: directory,
    // Not this run's environment, which tells a test runner that it is inside one. A fixed seed makes the same stories
    // catch the same plants every time.
    env: { PATH: process.env["PATH"], TMPDIR: tmpdir(), TEST_SEED: "1", FC_NUM_RUNS: "150" },
    stdio: ["ignore", "ignore", "pipe"],
    timeout: 100_000,
  });
  const said: Buffer[] = [];
  child.stderr.on("data", (chunk: Buffer) => said.push(chunk));
  const [exitCode] = (await once(child, "close")) as [number | null];
  return { exitCode, ...readReport(report, Buffer.concat(said).toString()) };
}

interface Report {
  readonly testResults: readonly {
    readonly assertionResults: readonly { readonly title: string; readonly status: string }[];
  }[];
}

function readReport(file: string, said: string): Pick<TestRun, "failed" | "passed"> {
  let report: Report;
  try {
    report = JSON.parse(readFileSync(file, "utf8")) as Report;
  } catch (cause) {
    throw new Error(`the tests of the copy did not run: ${said}`, { cause });
  }
  const results = report.testResults.flatMap(({ assertionResults }) => assertionResults);
  const named = (status: string) =>
    results.filter((test) => test.status === status).map(({ title }) => title);
  return { failed: named("failed"), passed: named("passed") };
}

/** The names of tests that carry one of the rules. */
function anyOf(plants: readonly Plant[]): string {
  return `\\b(${[...new Set(plants.map(({ rule }) => rule))].join("|")})\\b.*:`;
}

function rulesOf(name: string): string[] {
  return (name.split(":")[0] ?? "").split(" ");
}
