/** What is measured in the cluster of docker-compose.yml: every target answers, and so does every query about servers and k6. */
import { dirname } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { findK6 } from "../../bench/k6/program.ts";
import { DASHBOARDS } from "../../deploy/grafana/dashboards.ts";
import type { Source } from "../../deploy/grafana/panels.ts";
import { Client } from "../support/running-cluster.ts";
import { eventually } from "../support/eventually.ts";
import { queryPrometheus } from "../support/prometheus.ts";
import { K6_IMAGE, outputOf, Stack } from "./compose-stack.ts";

const k6 = findK6(process.env);
if (k6 === undefined) console.warn("SKIPPED: the service k6 (no k6 on PATH or where go install puts it)");
const K6_DOCKERFILE = `${import.meta.dirname}/k6.Dockerfile`;
/** How fast this machine is beside twenty containers is not the question here. */
const PATIENT = { READ_P99_MAX_MS: 30_000, DROPPED_SHARE_MAX: 1 };

let stack: Stack;

beforeAll(async () => {
  stack = await Stack.onFreePorts();
  await stack.compose("build", "--quiet");
  await stack.up();
});

afterAll(async () => {
  await stack.remove();
});

test("W5: Prometheus reaches every target, and every query about the servers shows something", async () => {
  const client = new Client(stack.apiUrl);
  const event = await client.createEvent({ totalTickets: 1_000 });
  const query = async (expr: string) => queryPrometheus(stack.prometheusUrl, expr);

  let silent: string[] = [];
  let buyer = 0;
  await eventually(
    "every target and every query answers",
    async () => {
      buyer += 1;
      await client.book(event.id, `buyer-${buyer}`);
      silent = (await query("up == 0")).map(({ metric }) => `${metric["job"]} ${metric["instance"]}`);
      silent.push(...(await unanswered("servers")));
      return silent.length === 0;
    },
    150_000,
  ).catch(() => undefined);
  expect(silent).toEqual([]);
  expect(
    (await query("count by (role) (pg_up == 1)")).map(({ metric, value }) => [metric["role"], value]),
  ).toEqual(
    expect.arrayContaining([
      ["catalog", 1],
      ["primary", 2],
      ["replica", 2],
    ]),
  );
  expect((await query("count(up)"))[0]?.value).toBeGreaterThan(12);
});

test.skipIf(k6 === undefined)(
  "M3 W5: the service k6 sends a scenario through HAProxy, and its figures are in Prometheus",
  async () => {
    const k6Folder = dirname(k6 ?? "");
    await outputOf("docker", ["build", "--quiet", "--tag", K6_IMAGE, "--file", K6_DOCKERFILE, k6Folder]);
    const settings = { EVENTS: 5, RATE_PER_SECOND: 10, DURATION_SECONDS: 40, ...PATIENT };
    const given = Object.entries(settings).flatMap(([name, value]) => ["--env", `${name}=${value}`]);
    let ended = false;
    const run = stack
      .compose("run", "--rm", "-T", ...given, "k6", "run", "--quiet", "/onsale/bench/k6/browse.ts")
      .finally(() => (ended = true));
    let silent: string[] = [];
    const watching = eventually(
      "every query answers, or the run has ended",
      async () => (silent = await unanswered("k6")).length === 0 || ended,
      100_000,
    );
    // A threshold that is crossed, a check that fails: k6 does not end with 0 then, and this throws what it said.
    const [said] = await Promise.all([run, watching]);
    expect(silent).toEqual([]);
    expect(said).toMatch(/checks_failed\.+: 0\.00%/);
    const sent = await queryPrometheus(
      stack.prometheusUrl,
      `sum(max_over_time(k6_http_reqs_total{name="read"}[5m]))`,
    );
    expect(sent[0]?.value).toBeGreaterThan(100);
  },
);

test("W4: Grafana's role reads the hottest events from a replica, and no booking", async () => {
  const client = new Client(stack.apiUrl);
  const event = await client.createEvent({ name: "Wanted" });
  await client.book(event.id, "ada");
  const ask = async (shard: string, statement: string) =>
    stack.compose(
      "exec",
      "-T",
      `${shard}-replica`,
      "psql",
      "-U",
      "monitor",
      "-d",
      "shard",
      "-Atc",
      statement,
    );
  await eventually("a replica shows the event", async () => {
    const names = await Promise.all(
      ["shard-a", "shard-b"].map(async (shard) => ask(shard, "select name from hottest_events")),
    );
    return names.join("\n").includes("Wanted");
  });
  await expect(ask("shard-a", "select user_id from bookings")).rejects.toThrow("permission denied");
});

test("W6: an alert that fires arrives where it can be seen, and so does its end", async () => {
  const config = "/etc/alertmanager/alertmanager.yml";
  expect(await stack.compose("exec", "-T", "alertmanager", "amtool", "check-config", config)).toContain(
    "SUCCESS",
  );

  // Compose may begin a line with a control sequence.
  const arrived = async () =>
    (await stack.compose("logs", "--no-log-prefix", "alerts"))
      .split("\n")
      .filter((line) => line.includes('"alertname":"ShardDown"'))
      .map((line) => JSON.parse(line.slice(line.indexOf("{"))) as Record<string, string>)
      .map(({ status, receiver, shard, runbook_url }) => ({ status, receiver, shard, runbook_url }));
  const shardDown = { receiver: "page", shard: "shard-b", runbook_url: "docs/operations.md#sharddown" };
  await stack.compose("stop", "node-b");
  await eventually("the alert arrives", async () => (await arrived()).length > 0, 240_000);
  await stack.compose("start", "node-b");
  expect(await arrived()).toEqual([{ ...shardDown, status: "firing" }]);
  await eventually("its end arrives", async () => (await arrived()).length > 1, 240_000);
  expect((await arrived())[1]).toEqual({ ...shardDown, status: "resolved" });
}, 600_000);

/** The queries of all dashboards about `source` that give no series, or none with a number. */
async function unanswered(source: Source): Promise<string[]> {
  const asked = DASHBOARDS.flatMap(({ rows }) => rows.flatMap(({ panels }) => panels)).flatMap((panel) =>
    panel.kind !== "table" && panel.source === source ? panel.queries : [],
  );
  expect(asked.length).toBeGreaterThan(3);
  const silent: string[] = [];
  for (const { expr } of asked) {
    const series = await queryPrometheus(stack.prometheusUrl, expr.replaceAll("$__rate_interval", "60s"));
    if (!series.some(({ value }) => Number.isFinite(value))) silent.push(expr);
  }
  return silent;
}
