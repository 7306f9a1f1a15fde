/** What the numbers of the dashboards say when all routers are dead: a real Prometheus, and a load balancer that answers 503. */
import type { RequestListener } from "node:http";
import { afterAll, beforeAll, expect, test, type TestContext } from "vitest";
import { DASHBOARDS } from "../../deploy/grafana/dashboards.ts";
import { askedOf, type MetricPanel, UNKNOWN } from "../../deploy/grafana/panels.ts";
import { eventually } from "../support/eventually.ts";
import { type Listening, serve } from "../support/listen.ts";
import { prometheusObstacle, startPrometheus, type TestPrometheus } from "../support/prometheus.ts";

const obstacle = prometheusObstacle();
const panels = DASHBOARDS.flatMap(({ rows }) => rows.flatMap((row) => row.panels)).filter(
  (panel) => panel.kind !== "table",
);

/** At each scrape a hundred requests more have come, and none of them reached a router. */
let requests = 0;
const answerScrape: RequestListener = (_, answer) => {
  requests += 100;
  answer.setHeader("content-type", "text/plain; version=0.0.4").end(
    `haproxy_frontend_http_requests_total{proxy="public"} ${requests}
haproxy_frontend_http_responses_total{proxy="public",code="2xx"} 5000
haproxy_frontend_http_responses_total{proxy="public",code="5xx"} ${requests}
haproxy_frontend_intercepted_requests_total{proxy="public"} 0
haproxy_frontend_denied_connections_total{proxy="public"} 0
haproxy_backend_active_servers{proxy="routers"} 0
`,
  );
};
let loadBalancer: Listening;
let prometheus: TestPrometheus;

beforeAll(async () => {
  if (obstacle !== undefined) {
    console.warn(`SKIPPED: the numbers of the dashboards (${obstacle})`);
    return;
  }
  loadBalancer = await serve(answerScrape);
  prometheus = await startPrometheus([{ job: "haproxy", targets: [loadBalancer] }]);
});

afterAll(async () => {
  await prometheus?.[Symbol.asyncDispose]();
  await loadBalancer?.[Symbol.asyncDispose]();
});

test("W2: a total outage is seen as such, and what nobody measures reads unknown", async (context) => {
  skipIfImpossible(context);
  await eventually(
    "the outage is seen",
    async () => (await valueOf("Answered without a fault")) === 0,
    30_000,
  );
  const numbers = panels.filter(({ kind }) => kind === "number");
  const shown = await Promise.all(numbers.map(async ({ title }) => [title, await valueOf(title)] as const));
  const known = shown.filter(([, value]) => value !== UNKNOWN);
  expect(Object.fromEntries(known)).toEqual({
    Requests: expect.any(Number),
    "Answered without a fault": 0,
    "Routers ready": 0,
  });
  expect(shown.length - known.length).toBeGreaterThan(5);
});

test("W2: an alert that fires is shown by its name and severity", async (context) => {
  skipIfImpossible(context);
  const [panel] = panels.filter(({ kind }) => kind === "series");
  const [query] = panel?.queries ?? [];
  if (panel === undefined || query === undefined) throw new Error("a table of alerts");
  const firing = await eventually(
    "the alert fires",
    async () => {
      const series = await prometheus.query(askedOf(panel, query));
      return series.length > 1 && series;
    },
    60_000,
  );
  const names = firing.map(({ metric }) => `${metric["severity"]}: ${metric["alertname"]}`);
  expect(names.toSorted()).toEqual(["page: AvailabilityBudgetBurnsFast", "ticket: AvailabilityBudgetBurns"]);
});

function skipIfImpossible({ skip }: TestContext): void {
  skip(obstacle !== undefined, `SKIPPED: ${obstacle}`);
}

/** What a number shows now; throws unless each of its queries gives exactly one series, without a label. */
async function valueOf(title: string): Promise<number | undefined> {
  const panel = panels.find((each) => each.title === title) as MetricPanel;
  let value: number | undefined;
  for (const query of panel.queries) {
    const series = await prometheus.query(askedOf(panel, query).replaceAll("$__rate_interval", "10s"));
    expect([title, series.map(({ metric }) => metric)]).toEqual([title, [{}]]);
    value = series[0]?.value;
  }
  return value;
}
