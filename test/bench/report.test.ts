/** What a run says about itself, and above all what it does not say. */
import { expect, test } from "vitest";
import type { AuditReport } from "../../audit/audit.ts";
import { readArguments } from "../../bench/arguments.ts";
import type { BenchCluster } from "../../bench/bench-cluster.ts";
import type { Turn } from "../../bench/compare/measure.ts";
import { outcomeOf } from "../../bench/compare/outcome.ts";
import { WORKLOADS } from "../../bench/compare/workloads.ts";
import { atLeast, below, type Figure } from "../../bench/figures.ts";
import type { LoadReport } from "../../bench/load/plan.ts";
import type { Part } from "../../bench/part.ts";
import { Progress } from "../../bench/progress.ts";
import { pageOf } from "../../bench/report/page.ts";
import { type PartResult, type Results, thisMachine } from "../../bench/report/results.ts";
import { textOf } from "../../bench/report/text.ts";
import { runPart } from "../../bench/run-part.ts";

const SPEED = 98_765;
const WRITTEN_SPEED = "98,765";

const GREAT: Figure = {
  name: "bookings",
  value: SPEED,
  unit: "/s",
  target: atLeast(50_000, SPEED, "/s"),
};

/** A part that has measured a great speed. */
const part: Part = {
  name: "fast",
  title: "a part of the test",
  seconds: 1,
  estimate: () => 1,
  cluster: {},
  run: async () => [GREAT],
};

const CLEAN: AuditReport = { shards: 1, events: 1, bookings: 7, ticketsSold: 7, violations: [] };
const OVERSOLD: AuditReport = {
  ...CLEAN,
  violations: [{ rule: "B1 never oversold", shard: "shard-0", row: { id: "an event" } }],
};

/** A cluster that does nothing and is audited with this result; says how often it was stopped. */
function clusterWith(report: AuditReport, ended: string[] = []) {
  const state = { stopped: 0 };
  const cluster: Pick<BenchCluster, "audit" | "ended" | typeof Symbol.asyncDispose> = {
    audit: async () => report,
    ended: () => ended,
    [Symbol.asyncDispose]: async () => void (state.stopped += 1),
  };
  return { state, start: async () => cluster as BenchCluster };
}

const context = {
  seconds: 1,
  options: {},
  signal: new AbortController().signal,
  progress: new Progress(),
};

function resultsOf(parts: readonly PartResult[], failures: Results["failures"] = []): Results {
  const command = "npm run bench";
  return {
    date: "2026-01-02T03:04:05.000Z",
    command,
    machine: thisMachine(),
    tookSeconds: 1,
    parts,
    failures,
  };
}

test("M1: a run in which a process of the cluster has ended gives no figures, and says which", async () => {
  const { state, start } = clusterWith(CLEAN, ["the node of shard-1 (pid 7)"]);
  const failing = { ...part, run: async () => Promise.reject(new Error("connection refused")) };

  for (const each of [part, failing]) {
    await expect(runPart(each, context, start)).rejects.toThrow(
      "the node of shard-1 (pid 7) ended in the middle, so no figures",
    );
  }
  expect(state.stopped).toBe(2);
});

test("M1: a part whose audit is not clean gives no figures, but the broken rows", async () => {
  const { state, start } = clusterWith(OVERSOLD);

  const reason = await runPart(part, context, start).then(
    () => "it gave figures",
    (error: unknown) => String(error),
  );

  expect(reason).toContain("the audit found 1 broken rows, so no figures");
  expect(reason).toContain("B1 never oversold");
  expect(state.stopped).toBe(1);
  const results = resultsOf([], [{ part: "fast", reason }]);
  for (const report of [textOf(results), pageOf(results), JSON.stringify(results)]) {
    expect(report).toContain("B1 never oversold");
    expect(report).not.toMatch(/98,?765/);
  }
});

test("M1: a part whose audit is clean shows its figures, and what was audited", async () => {
  const { state, start } = clusterWith(CLEAN);

  const results = resultsOf([await runPart(part, context, start)]);

  expect(state.stopped).toBe(1);
  for (const report of [textOf(results), pageOf(results)]) {
    expect(report).toContain(WRITTEN_SPEED);
    expect(report).toContain("audit clean: fast 7 bookings");
  }
});

test("M1: a contender whose audit is not clean has no figures, and the others have theirs", () => {
  const entrants = ["for-update", "careless", "onsale"].map((name) => ({ name, title: `what ${name} does` }));
  const turns = new Map([
    ["for-update", [turnOf("for-update", 1_000)]],
    ["careless", [turnOf("careless", SPEED, ["event 1 is oversold: 12 of 10 tickets"])]],
    ["onsale", [turnOf("onsale", 30_000)]],
  ]);

  const outcome = outcomeOf(entrants, turns);

  const problems = outcome.problems ?? [];
  expect(problems).toHaveLength(1);
  expect(problems[0]).toContain("event 1 is oversold: 12 of 10 tickets");
  expect(JSON.stringify({ ...outcome, problems: [] })).not.toMatch(/careless|98765/);
  expect(outcome.figures.find(({ name }) => name === "one hot event, times for-update")?.value).toBe(30);
  const [hot] = outcome.tables ?? [];
  expect(hot?.rows.map(([name, confirmed]) => [name, confirmed])).toEqual([
    ["for-update", 1_000],
    ["onsale", 30_000],
  ]);
});

test("M1: without a clean contender to compare with, there are no ratios", () => {
  const entrants = ["for-update", "onsale"].map((name) => ({ name, title: name }));
  const turns = new Map([
    ["for-update", [turnOf("for-update", SPEED, ["user 1 has 3 tickets of event 1, above the limit of 2"])]],
    ["onsale", [turnOf("onsale", 30_000)]],
  ]);

  const outcome = outcomeOf(entrants, turns);

  expect(outcome.figures).toEqual([]);
  expect(JSON.stringify({ ...outcome, problems: [] })).not.toMatch(/times for-update|98765/);
});

test("M1: the page is whole without any other host or script, and says which targets were missed", () => {
  const outcome = outcomeOf(
    ["for-update", "onsale"].map((name) => ({ name, title: `<${name}>` })),
    new Map([
      ["for-update", [turnOf("for-update", 1_000)]],
      ["onsale", [turnOf("onsale", 20_000)]],
    ]),
  );
  const figures = [{ name: "p99", value: 30, unit: "ms", target: below(25, 30, "ms") } as const];
  const parts = [
    { part: "compare", title: "all of them", secondsAMeasurement: 2, tookSeconds: 9, ...outcome },
    { part: "steady", title: "half", secondsAMeasurement: 2, tookSeconds: 9, figures },
  ];

  const page = pageOf(resultsOf(parts));

  expect(page.match(/<script|<link|<iframe|<img|https?:|url\((?!#)|@import/gi)).toBeNull();
  expect(page.match(/<svg/g)).toHaveLength(1 + 3 * WORKLOADS.length);
  expect(page).toContain("&lt;for-update&gt;");
  // Once in the list of all targets and once in its part: p99 and the hot event.
  expect(page.match(/>NOT MET</g)).toHaveLength(4);
  expect(textOf(resultsOf(parts)).match(/NOT MET/g)).toHaveLength(2);
});

test("E4: a wrong part, option or number of the benchmark is one line that says what there is", () => {
  const capacity = {
    ...part,
    name: "capacity",
    onlyNamed: true,
    options: { rps: { means: "requests a second", default: 1000, min: 1, max: 1e9, whole: true } },
  };
  const read = (...argv: string[]) => readArguments(argv, [part, capacity]);
  const refusal = (...argv: string[]) => {
    try {
      return JSON.stringify(read(...argv));
    } catch (error) {
      return error instanceof Error ? error.message : "";
    }
  };

  expect(refusal("nothing")).toBe("there is no part nothing; there are fast, capacity");
  expect(refusal("--what", "1")).toBe("Unknown option '--what'; there are --seconds, --json, --help, --rps");
  expect(refusal("--seconds", "-5")).toMatch(/^Option '--seconds' argument is ambiguous; there are[^\n]*$/);
  expect(refusal("capacity", "--rps", "1.5")).toMatch(/^--rps 1\.5: .*, a whole number from 1 to/);
  expect(refusal("--seconds", "many")).toMatch(/^--seconds many: give seconds .* from 0\.5 to 300$/);
  expect(refusal("--seconds", "")).toMatch(/^--seconds : give seconds/);
  expect(refusal("capacity", "--rps", "0")).toMatch(
    /^--rps 0: give requests a second, a whole number from 1 to/,
  );
  expect(refusal("fast", "--rps", "5")).toBe("--rps is an option of capacity, which does not run");

  expect(read().parts.map(({ name }) => name)).toEqual(["fast"]);
  expect(read("capacity", "--rps", "5", "--json")).toMatchObject({ options: { rps: 5 }, json: true });
  expect(read("capacity", "fast", "--seconds", "2")).toMatchObject({ options: { rps: 1000 }, seconds: 2 });
});

/** A turn in which every workload was done at this rate for a second. */
function turnOf(contender: string, perSecond: number, violations: readonly string[] = []): Turn {
  const none = { confirmed: 0, accepted: 0, refused: 0, read: 0, error: 0 };
  return {
    auditedBookings: perSecond,
    violations,
    measurements: WORKLOADS.map(({ name, counted }) => {
      const classes = { ...none, [counted]: perSecond };
      const report: LoadReport = {
        seconds: 1,
        answers: perSecond,
        counts: { "201": perSecond },
        classes,
        allClasses: classes,
        latencyMs: { p50: 1e6 / perSecond, p90: 1, p99: 1e6 / perSecond, p999: 1, max: 1 },
        classP99Ms: none,
        latencyCurve: [
          { percentile: 0, ms: 1 },
          { percentile: 99, ms: 4 },
        ],
        series: { sliceSeconds: 1, slices: [{ ...classes, p99Ms: 1 }] },
        sent: perSecond,
        dropped: 0,
        processorShare: 0.5,
      };
      return {
        contender,
        workload: name,
        report,
        processorPerThousand: { http: 1, PostgreSQL: 1, "load generator": 1 },
        retries: 0,
        lockWaitPerThousand: 0,
        ownLockWaitPerThousand: undefined,
        settleSeconds: 0,
      };
    }),
  };
}
