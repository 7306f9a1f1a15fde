/** The k6 scenarios, as `npm run k6` runs them: a real k6, a real cluster, and what its databases hold afterwards. */
import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { z } from "zod";
import { type BenchCluster, startBenchCluster } from "../../bench/bench-cluster.ts";
import { randomOf, zipf } from "../../bench/k6/script/choices.ts";
import { isBooking, isEvent, problemCode } from "../../bench/k6/script/contract.ts";
import { findK6 } from "../../bench/k6/program.ts";
import { Progress } from "../../bench/progress.ts";
import { PROBLEMS } from "../../router/http/problems.ts";
import { openDatabase } from "../support/databases.ts";
import { eventually } from "../support/eventually.ts";
import { type Program, start } from "../support/run.ts";

const RESULTS = join(import.meta.dirname, "../../bench/results");
const SECONDS = 2;
const RATE = 100;
/** How fast this machine is beside other tests is not the question here. */
const PATIENT = {
  BOOKING_P99_MAX_MS: "30000",
  READ_P99_MAX_MS: "30000",
  DROPPED_SHARE_MAX: "1",
  FAILED_SHARE_MAX: "0",
};

/** What k6 keeps of a run (`--summary-export`). */
const keptRun = z.object({ metrics: z.record(z.string(), z.looseObject({ count: z.number().optional() })) });
type Env = Readonly<Record<string, string>>;

const k6 = findK6(process.env);
if (k6 === undefined) console.warn("SKIPPED: the k6 scenarios (no k6 on PATH or where go install puts it)");

describe.skipIf(k6 === undefined)("with k6", () => {
  let cluster: BenchCluster;
  beforeAll(async () => {
    cluster = await startBenchCluster({ signal: AbortSignal.timeout(90_000), progress: new Progress() });
  });
  afterAll(async () => cluster[Symbol.asyncDispose]());

  /** What the runner says of a scenario that is sent to the cluster, and what it keeps. */
  function launch(args: readonly string[], env: Env = {}): Program {
    const { dataDir: DATA_DIR, secret: AUTH_JWT_SECRET } = cluster;
    const PATH = [dirname(k6 ?? ""), process.env["PATH"]].join(delimiter);
    return start("bench/k6/run.ts", { PATH, DATA_DIR, AUTH_JWT_SECRET, ...PATIENT, ...env }, args);
  }
  async function run(scenario: string, env: Env = {}, { seconds = SECONDS, rate = RATE } = {}) {
    const before = await bookings();
    const args = [scenario, "--seconds", String(seconds), "--rate", String(rate)];
    await using program = launch(args, env);
    const { code, stdout, stderr } = await program.exited;
    const file = /^kept in (.+)$/m.exec(stderr)?.[1];
    if (file === undefined) throw new Error(`nothing was kept:\n${stdout}${stderr}`);
    const { metrics } = keptRun.parse(JSON.parse(readFileSync(file, "utf8")));
    rmSync(file);
    const count = (metric: string) => metrics[metric]?.count ?? 0;
    const after = await bookings();
    return {
      code,
      stdout,
      sent: count("iterations"),
      dropped: count("dropped_iterations"),
      /** How often it came, as k6 counted. */
      of: (outcome: string) => count(`onsale_${outcome}`),
      /** How many bookings of this status there are more than before, as the databases say. */
      more: (status: string) => (after.get(status) ?? 0) - (before.get(status) ?? 0),
    };
  }

  /** In all shards, by status. */
  async function bookings(): Promise<Map<string, number>> {
    const found = new Map<string, number>();
    for (const { databaseUrl } of cluster.shards) {
      const rows = await query<{ status: string; bookings: number }>(
        databaseUrl,
        "select status, count(*)::integer as bookings from bookings group by status",
      );
      for (const row of rows) found.set(row.status, (found.get(row.status) ?? 0) + row.bookings);
    }
    return found;
  }

  function expectSound(result: Awaited<ReturnType<typeof run>>): void {
    const { code, stdout, sent } = result;
    expect({ code, failed: result.of("failed"), crossed: stdout.match(/✗.*/g) }).toEqual({
      code: 0,
      failed: 0,
      crossed: null,
    });
    expect(sent).toBeGreaterThan(0);
    expect(sent).toBeLessThanOrEqual(RATE * SECONDS + 1);
    expect(stdout).toContain("audit clean: ");
    expect(stdout).toMatch(/✓ 'p\(99\)<=30000' p\(99\)=/);
  }

  test("B1 M3: on-sale sells exactly its tickets, and the rest hear that it is sold out", async () => {
    const result = await run("on-sale", { TICKETS: "20" });

    expectSound(result);
    expect(result.of("booked")).toBe(20);
    expect(result.more("confirmed")).toBe(20);
    expect(result.of("sold_out")).toBe(result.sent - 20);
    expect(result.of("sold_out")).toBeGreaterThan(0);
  });

  test("M3: mixed reads and books, and every yes is in the databases", async () => {
    const result = await run("mixed", { EVENTS: "50" });

    expectSound(result);
    expect(result.of("booked")).toBeGreaterThan(0);
    expect(result.more("confirmed")).toBe(result.of("booked"));
    expect(result.of("read") + result.of("booked")).toBe(result.sent);
    expect(result.of("read")).toBeGreaterThan(result.sent * 0.85);
  });

  test("M3: sold-out counts nothing but refusals, as answers", async () => {
    const result = await run("sold-out", { TICKETS: "10" });

    expectSound(result);
    expect(result.of("sold_out")).toBe(result.sent);
    expect(result.more("confirmed")).toBe(1); // the one that sold it out beforehand
  });

  test("M3: browse reads events, knows what it has read, and turns the pages of the list", async () => {
    const result = await run("browse", { EVENTS: "45" });

    expectSound(result);
    for (const outcome of ["read", "not_modified", "listed"]) expect(result.of(outcome)).toBeGreaterThan(0);
    expect(result.more("confirmed")).toBe(0);
  });

  test("M3: soak books, holds, confirms and cancels, and the databases hold the same", async () => {
    const result = await run("soak", { EVENTS: "10" });

    expectSound(result);
    for (const outcome of ["read", "booked", "held", "confirmed", "cancelled"])
      expect([outcome, result.of(outcome) > 0]).toEqual([outcome, true]);
    expect(result.more("cancelled")).toBe(result.of("cancelled"));
    expect(result.more("confirmed")).toBe(
      result.of("booked") - result.of("cancelled") + result.of("confirmed"),
    );
    expect(result.more("held") + result.more("expired")).toBe(result.of("held") - result.of("confirmed"));
  });

  test("M3: arrivals that found no VU are reported, and fail the run by name", async () => {
    const env = { EVENTS: "5", VUS_MAX: "1", DROPPED_SHARE_MAX: "0.01" };
    const result = await run("browse", env, { seconds: 1, rate: 10_000 });

    expect(result.code).toBe(1);
    expect(result.dropped).toBeGreaterThan(0);
    expect(result.stdout).toContain(`✗ 'count<=100' count=${result.dropped}`);
  });

  test("M3: a latency beyond its limit fails the run by name", async () => {
    const result = await run("sold-out", { BOOKING_P99_MAX_MS: "0.001" }, { seconds: 1 });

    expect(result.code).toBe(1);
    expect(result.stdout.match(/✗.*/g)).toEqual([expect.stringContaining("'p(99)<=0.001'")]);
  });

  test("M1: Ctrl-C ends k6 early, and what it did is audited all the same", async () => {
    const before = await bookings();
    await using program = launch(["on-sale", "--seconds", "60", "--rate", "20"]);
    await eventually("the load books", async () => {
      const now = await bookings();
      return (now.get("confirmed") ?? 0) > (before.get("confirmed") ?? 0);
    });
    // A terminal signals the whole group, and npm passes its own on: two arrive.
    program.stop("SIGINT");
    program.stop("SIGINT");
    const { code, stdout, stderr } = await program.exited;

    rmSync(/^kept in (.+)$/m.exec(stderr)?.[1] ?? "");
    expect({ code, interrupted: stdout.includes("it was interrupted, ") }).toEqual({
      code: 1,
      interrupted: true,
    });
    expect(stdout).toContain("audit clean: ");
  });

  test("M1: a run prints and keeps no speed when an invariant is broken", async () => {
    const event = await cluster.createEvent({ totalTickets: 10 });
    const makeAvailable = async (tickets: number) => {
      const change = `update events set available_tickets = ${tickets} where id = '${event.id}'`;
      for (const { databaseUrl } of cluster.shards) await query(databaseUrl, change);
    };
    const kept = keptFiles();
    await makeAvailable(9); // nobody has the tenth
    try {
      await using program = launch(["on-sale", "--seconds", "1", "--rate", "50"]);
      const { code, stdout, stderr } = await program.exited;

      expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
      expect(stderr).toContain("the audit found 1 broken rows, so no figures");
      expect(stderr).toContain("B2 tickets are conserved");
      expect(stderr).not.toMatch(/\d ?(ms|\/s|iters)\b/);
      expect(keptFiles()).toEqual(kept);
    } finally {
      await makeAvailable(10);
    }
  });
});

const REFUSALS: readonly (readonly [string, readonly string[], Env, RegExp])[] = [
  ["no scenario", [], {}, /use: npm run k6 -- on-sale\|/],
  ["an unknown scenario", ["rush"], {}, /there is no scenario 'rush'; use: /],
  ["an unknown option", ["browse", "--speed", "9"], {}, /Unknown option '--speed'; use: /],
  [
    "a bad number",
    ["browse", "--rate", "fast"],
    {},
    /RATE_PER_SECOND must be a whole number from 1 to 100000, not 'fast'/,
  ],
  [
    "bad settings",
    ["browse"],
    { EVENTS: "0", VUS_MAX: "x" },
    /EVENTS must be .* not '0'; VUS_MAX must be .* not 'x'/,
  ],
  ["no k6", ["browse"], {}, /there is no k6 .* bench\/k6\/README.md says how to build it/],
];
test.for(REFUSALS)("M5: %s is refused on one line that says what to do", async ([, args, env, reason]) => {
  await using program = start("bench/k6/run.ts", { PATH: "/nowhere", HOME: "/nowhere", ...env }, args);
  expectRefusal(await program.exited, reason);
});

test.skipIf(k6 === undefined)("M5: no running cluster is said on one line that says what to do", async () => {
  const env = { PATH: dirname(k6 ?? ""), DATA_DIR: "/nowhere" };
  await using program = start("bench/k6/run.ts", env, ["browse"]);
  expectRefusal(await program.exited, /DATA_DIR \/nowhere: start one with npm start, or add --own-cluster/);
});

test("M3: the scenarios notice an answer that is not as the contract says", () => {
  const times = { createdAt: "2026-11-22T16:39:02.992Z", updatedAt: "2026-11-22T16:39:02.992Z" };
  const id = "01a20420-1c4e-75b2-ae74-4140d6003fd8";
  const booking = {
    id,
    eventId: id,
    userId: "u",
    quantity: 1,
    status: "held",
    expiresAt: times.createdAt,
    ...times,
  };
  expect(isBooking(booking)).toBe(true);
  for (const wrong of [{ extra: 1 }, { quantity: "1" }, { status: "lost" }, { expiresAt: null }, { id: "1" }])
    expect([wrong, isBooking({ ...booking, ...wrong })]).toEqual([wrong, false]);
  const { userId: _, ...anonymous } = booking;
  expect(isBooking(anonymous)).toBe(false);

  const event = {
    id,
    ownerId: "organizer",
    name: "n",
    venue: null,
    startsAt: times.createdAt,
    salesStartAt: null,
    salesEndAt: times.createdAt,
    status: "on_sale",
    intake: "direct",
    totalTickets: 5,
    availableTickets: 5,
    maxPerUser: 2,
    version: 1,
    ...times,
  };
  expect(isEvent(event)).toBe(true);
  expect(isEvent({ ...event, availableTickets: 6 })).toBe(false);

  const { title, status } = PROBLEMS.sold_out;
  const body = { type: "t", detail: "d", code: "sold_out", requestId: "r", title, status };
  const headers = { "X-Request-Id": "r", "Content-Type": "application/problem+json; charset=utf-8" };
  expect(problemCode({ status, headers, body })).toBe("sold_out");
  expect(problemCode({ status: 503, headers, body })).toBeUndefined();
  expect(problemCode({ status, headers: { ...headers, "X-Request-Id": "s" }, body })).toBeUndefined();
  expect(problemCode({ status, headers, body: { ...body, code: "gone" } })).toBeUndefined();
});

test("M6: every run asks for the same events, and they are as popular as Zipf's law says", () => {
  const [events, requests] = [1_000, 200_000];
  const run = () => Array.from({ length: requests }, (_, iteration) => zipf(events, randomOf(iteration)));
  const asked = run();
  expect(asked).toEqual(run());

  const counts = Array.from({ length: events }, () => 0);
  for (const event of asked) counts[event] = (counts[event] ?? Number.NaN) + 1;
  // Event i of n is asked for with a probability of 1 / (i + 1) / (1 + 1/2 + … + 1/n).
  const harmonic = counts.reduce((sum, _, index) => sum + 1 / (index + 1), 0);
  for (const index of [0, 1, 2, 9, 99]) {
    const wanted = requests / (index + 1) / harmonic;
    expect(Math.abs((counts[index] ?? 0) - wanted)).toBeLessThan(5 * Math.sqrt(wanted));
  }
  expect(counts.every((count) => count > 0)).toBe(true);
  expect(counts.reduce((sum, count) => sum + count)).toBe(requests);
});

function expectRefusal({ code, stdout, stderr }: Awaited<Program["exited"]>, reason: RegExp): void {
  expect({ code, stdout, lines: stderr.trimEnd().split("\n").length }).toEqual({
    code: 1,
    stdout: "",
    lines: 1,
  });
  expect(stderr).toMatch(reason);
}

function keptFiles(): string[] {
  return existsSync(RESULTS) ? readdirSync(RESULTS).filter((name) => name.startsWith("k6-on-sale-")) : [];
}

async function query<Row extends Record<string, unknown>>(url: string, text: string): Promise<Row[]> {
  await using database = openDatabase(url);
  return await database.query<Row>({ name: "k6-test", text });
}
