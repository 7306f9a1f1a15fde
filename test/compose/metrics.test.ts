/** What is measured in the cluster of docker-compose.yml: every target answers, and so does every query about the servers. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { DASHBOARDS } from "../../deploy/grafana/dashboards.ts";
import { Client } from "../support/cluster.ts";
import { eventually } from "../support/eventually.ts";
import { queryPrometheus } from "../support/prometheus.ts";
import { Stack } from "./stack.ts";

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
  const asked = DASHBOARDS.flatMap(({ rows }) => rows.flatMap(({ panels }) => panels)).flatMap((panel) =>
    panel.kind !== "table" && panel.source === "servers" ? panel.queries : [],
  );
  expect(asked.length).toBeGreaterThan(10);

  let silent: string[] = [];
  let buyer = 0;
  await eventually(
    "every target and every query answers",
    async () => {
      buyer += 1;
      await client.book(event.id, `buyer-${buyer}`);
      silent = (await query("up == 0")).map(({ metric }) => `${metric["job"]} ${metric["instance"]}`);
      for (const { expr } of asked) {
        const series = await query(expr.replaceAll("$__rate_interval", "60s"));
        if (!series.some(({ value }) => Number.isFinite(value))) silent.push(expr);
      }
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
