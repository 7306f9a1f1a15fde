/** Every query of the dashboards, asked of a real Prometheus that scrapes a cluster under load. */
import { afterAll, beforeAll, expect, test, type TestContext } from "vitest";
import { startAuditor, type RunningAuditor } from "../../audit/auditor/auditor.ts";
import { auditorConfig } from "../../audit/auditor/config.ts";
import { findK6, runK6 } from "../../bench/k6/program.ts";
import { DASHBOARDS } from "../../deploy/grafana/dashboards.ts";
import type { Source } from "../../deploy/grafana/panels.ts";
import { readConfig } from "../../shared/process/config.ts";
import { SECRET, startTestCluster, type TestCluster, testRedisUrl } from "../support/running-cluster.ts";
import { lockEvent } from "../support/databases.ts";
import { eventually } from "../support/eventually.ts";
import { startTestReadSide, type TestReadSide } from "../support/read-side.ts";
import { prometheusObstacle, startPrometheus, type TestPrometheus } from "../support/prometheus.ts";

const obstacle =
  prometheusObstacle() ?? (testRedisUrl() === null ? "there is no Redis server on PATH" : undefined);
const k6 = findK6(process.env);

let cluster: TestCluster;
let auditor: RunningAuditor;
let readSide: TestReadSide;
let prometheus: TestPrometheus;
const idle = new AbortController();
let buying: Promise<void>;

beforeAll(async () => {
  if (obstacle !== undefined) {
    console.warn(`SKIPPED: the queries of the dashboards (${obstacle})`);
    return;
  }
  cluster = await startTestCluster({ shards: 2, redisUrl: testRedisUrl(), routers: 0 });
  readSide = await startTestReadSide(cluster.nodes);
  for (let index = 0; index < 2; index += 1)
    await cluster.addRouter({ RATE_LIMIT_PER_USER: "20", READ_SIDE_URL: readSide.url });
  auditor = await startAuditor(
    readConfig(auditorConfig, {
      CATALOG_URL: cluster.catalogUrl,
      ADMIN_PORT: "0",
      LOG_LEVEL: "silent",
      AUDIT_INTERVAL_SECONDS: "1",
    }),
  );
  prometheus = await startPrometheus([
    { job: "router", targets: cluster.routers.map(({ adminUrl }) => ({ url: adminUrl })) },
    {
      job: "node",
      targets: cluster.nodes.map(({ adminUrl }, index) => ({
        url: adminUrl,
        labels: { shard: cluster.shards[index]?.id ?? "" },
      })),
    },
    { job: "read-side", targets: [{ url: readSide.adminUrl }] },
    { job: "audit", targets: [{ url: auditor.adminUrl }] },
  ]);
  buying = buy();
});

afterAll(async () => {
  idle.abort();
  try {
    await buying;
  } finally {
    await prometheus?.[Symbol.asyncDispose]();
    await auditor?.close();
    await readSide?.[Symbol.asyncDispose]();
    await cluster?.[Symbol.asyncDispose]();
  }
});

test(
  "W2: every query about onsale shows something on a cluster under load",
  { timeout: 120_000 },
  async (context) => {
    skipIfImpossible(context);
    await expectAnswers("onsale");
  },
);

test(
  "W2: every query about k6 shows something while a scenario writes to Prometheus",
  { timeout: 120_000 },
  async (context) => {
    skipIfImpossible(context);
    if (k6 === undefined) return context.skip("SKIPPED: there is no k6 on PATH or where go install puts it");
    const ended = new AbortController();
    const run = runK6(k6, `${import.meta.dirname}/../../bench/k6/browse.ts`, {
      env: {
        ...process.env,
        ROUTER_URL: cluster.routers[0]?.url,
        AUTH_JWT_SECRET: SECRET,
        EVENTS: "3",
        DURATION_SECONDS: "60",
        RATE_PER_SECOND: "10",
        K6_OUT: "experimental-prometheus-rw",
        K6_PROMETHEUS_RW_SERVER_URL: `${prometheus.url}/api/v1/write`,
        K6_PROMETHEUS_RW_PUSH_INTERVAL: "1s",
      },
      files: { said: "/dev/null", metrics: "/dev/null" },
      signal: ended.signal,
    });
    try {
      await expectAnswers("k6");
    } finally {
      ended.abort();
      await run;
    }
  },
);

test("W2: a query of nothing is seen to show nothing", async (context) => {
  skipIfImpossible(context);
  expect(
    await unanswered([{ title: "none", expr: "rate(onsale_no_such_thing_total[$__rate_interval])" }]),
  ).toEqual(["none: rate(onsale_no_such_thing_total[$__rate_interval])"]);
});

function skipIfImpossible({ skip }: TestContext): void {
  skip(obstacle !== undefined, `SKIPPED: ${obstacle}`);
}

interface Asked {
  readonly title: string;
  readonly expr: string;
}

async function expectAnswers(source: Source): Promise<void> {
  const asked: Asked[] = DASHBOARDS.flatMap(({ title: dashboard, rows }) =>
    rows.flatMap(({ panels }) =>
      panels.flatMap((panel) =>
        panel.kind !== "table" && panel.source === source
          ? panel.queries.map(({ expr }) => ({ title: `${dashboard} / ${panel.title}`, expr }))
          : [],
      ),
    ),
  );
  expect(asked.length).toBeGreaterThan(3);
  let missing: string[] = [];
  await eventually(
    "every query was answered",
    async () => (missing = await unanswered(asked)).length === 0,
    60_000,
  ).catch(() => undefined);
  expect(missing).toEqual([]);
}

/** Those that give no series, or none with a number. */
async function unanswered(asked: readonly Asked[]): Promise<string[]> {
  const missing: string[] = [];
  for (const { title, expr } of asked) {
    const series = await prometheus.query(expr.replaceAll("$__rate_interval", "10s"));
    if (!series.some(({ value }) => Number.isFinite(value))) missing.push(`${title}: ${expr}`);
  }
  return missing;
}

/** A small load with everything in it, until nobody looks any more: yes and no, holds, reads, lists, and a row kept locked. */
async function buy(): Promise<void> {
  const [first, second] = cluster.routers.map((router) => cluster.client(router));
  if (first === undefined || second === undefined) throw new Error("two routers");
  const plenty = await first.createEvent({ totalTickets: 1_000_000 });
  const gone = await first.createEvent({ totalTickets: 1 });
  await first.book(gone.id, "the-only-one");
  for (let turn = 0; !idle.signal.aborted; turn += 1) {
    const release = turn % 10 === 0 ? await lockFor(plenty.id) : undefined;
    const buyers = Array.from({ length: 8 }, (_, index) => `buyer-${turn}-${index}`);
    const booked = Promise.all(buyers.map(async (buyer) => first.book(plenty.id, buyer)));
    await release?.();
    await booked;
    const { body: hold } = await second.hold(plenty.id, `holder-${turn}`);
    await second.confirm(hold.id, `holder-${turn}`);
    await second.book(plenty.id, `greedy-${turn}`, 100);
    await first.book(gone.id, `late-${turn}`);
    await first.book(gone.id, `late-${turn}`, 1, { "idempotency-key": `late-${turn}` });
    // More than RATE_LIMIT_PER_USER.
    await Promise.all(Array.from({ length: 30 }, async () => second.book(gone.id, "impatient")));
    for (const client of [first, second]) {
      await client.readEvent(plenty.id);
      await client.readEvent(gone.id);
    }
    await second.send("GET", "/v1/events?limit=2");
    await second.send("GET", "/v1/bookings", { as: `holder-${turn}` });
    // A new event is in no memory yet.
    if (turn % 5 === 0) await second.readEvent((await first.createEvent()).id);
  }
}

/** Keeps the row of an event locked, as somebody's open transaction would, until it is released. */
async function lockFor(eventId: string): Promise<() => Promise<void>> {
  const locks = await Promise.all(
    cluster.shards.map(async ({ databaseUrl }) => lockEvent(databaseUrl, eventId)),
  );
  return async () => {
    for (const lock of locks) await lock.run("rollback");
    for (const lock of locks) lock.close();
  };
}
