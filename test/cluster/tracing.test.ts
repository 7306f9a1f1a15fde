import { join } from "node:path";
import getPort from "get-port";
import { expect, test } from "vitest";
import { z } from "zod";
import { readConfig } from "../../shared/process/config.ts";
import { newEventId } from "../../shared/domain/ids.ts";
import { createLog } from "../../shared/process/log.ts";
import { createRegistry } from "../../shared/watch/metrics.ts";
import { startTracing, tracingSettings } from "../../shared/watch/start-tracing.ts";
import { RPC } from "../../shared/wire/rpc.ts";
import { routerConfig } from "../../router/config.ts";
import { startRouter } from "../../router/router.ts";
import {
  Client,
  INTERNAL_TOKEN,
  type ProblemBody,
  RPC_HEADERS,
  SECRET,
  startTestCluster,
  tally,
} from "../support/running-cluster.ts";
import { type CollectedSpan, type Collector, startCollector } from "../support/collector.ts";
import { bookCommand } from "../support/commands.ts";
import { administer, connectTo, lockEvent } from "../support/databases.ts";
import { eventually } from "../support/eventually.ts";
import { resultsOf, startFakeNode } from "../support/fake-node.ts";
import { copySources } from "../support/planted-copy.ts";
import { start } from "../support/run.ts";

const TRACE = "0af7651916cd43dd8448eb211c80319c";
const CALLER = "b7ad6b7169203331";
const SAMPLED = { traceparent: `00-${TRACE}-${CALLER}-01` };
const NOT_SAMPLED = { traceparent: `00-${TRACE}-${CALLER}-00` };
const BOOKINGS = "POST /v1/events/{id}/bookings";
const CALL = "POST /rpc/commands";

const traceOf = (number: number) => number.toString(16).padStart(32, "0");
const sampledIn = (trace: string) => ({ traceparent: `00-${trace}-${CALLER}-01` });

/** The settings that trace into this collector; requests without a trace of their own only when `ratio` says so. */
const tracedTo = (collector: Pick<Collector, "url">, ratio = "0") => ({
  OTEL_EXPORTER_OTLP_ENDPOINT: collector.url,
  OTEL_TRACES_SAMPLER_ARG: ratio,
});

const spansNamed = (collector: Collector, name: string) =>
  collector.spans.filter((span) => span.name === name);
const idsOf = (spans: readonly CollectedSpan[]) => spans.map((span) => `${span.traceId} ${span.spanId}`);
const linksOf = (span: CollectedSpan) => span.links.map((link) => `${link.traceId} ${link.spanId}`);

const isReady = async (adminPort: number) =>
  (await fetch(`http://127.0.0.1:${adminPort}/readyz`).catch(() => undefined))?.ok;
const linesIn = (log: string) => {
  const lines = log.trim().split("\n");
  return lines.map((line) => JSON.parse(line) as Record<string, unknown>);
};

/** A trace as lines, one a span, indented under its parent; siblings in the order in which they began. */
function treeOf(spans: readonly CollectedSpan[], parent: string, indent = ""): string[] {
  return spans
    .filter((span) => span.parentSpanId === parent)
    .sort((a, b) => Number(a.startTimeUnixNano - b.startTimeUnixNano) || (a.name === "lane wait" ? -1 : 1))
    .flatMap((span) => [
      `${indent}${span.service} ${span.kind} ${span.name}`,
      ...treeOf(spans, span.spanId, `${indent}  `),
    ]);
}

test("T1 T2: a sampled booking is one tree, from the client's own span down to the statement", async () => {
  await using collector = await startCollector();
  await using cluster = await startTestCluster({ shards: 1, env: tracedTo(collector) });
  const client = cluster.client();
  const event = await client.createEvent();

  const booked = await client.book(event.id, "ada", 1, { ...SAMPLED, tracestate: "vendor=1,other=x" });
  expect(booked.status).toBe(201);
  await eventually("both processes have sent their spans", () => collector.spans.length >= 6);

  expect(new Set(collector.spans.map((span) => span.traceId))).toEqual(new Set([TRACE]));
  expect(new Set(collector.spans.map((span) => span.traceState))).toEqual(new Set(["vendor=1,other=x"]));
  expect(treeOf(collector.spans, CALLER)).toEqual([
    "onsale-router server POST /v1/events/{id}/bookings",
    "  onsale-router client POST /rpc/commands",
    "    onsale-shard-node server POST /rpc/commands",
    "      onsale-shard-node internal lane wait",
    "      onsale-shard-node internal batch",
    "        onsale-shard-node client decide-batch",
  ]);
  const attributesOf = (name: string) => spansNamed(collector, name).map((span) => span.attributes);
  const url = new URL(cluster.nodes[0]?.url ?? "");
  expect(attributesOf(BOOKINGS)).toEqual([
    {
      "http.request.method": "POST",
      "url.path": `/v1/events/${event.id}/bookings`,
      "url.scheme": "http",
      "network.protocol.version": "1.1",
      "http.route": "/v1/events/{id}/bookings",
      "http.response.status_code": 201,
      "onsale.request_id": booked.headers.get("x-request-id"),
    },
  ]);
  expect(attributesOf(CALL).find((attributes) => "url.full" in attributes)).toEqual({
    "http.request.method": "POST",
    "url.full": `${url.origin}${RPC.commands}`,
    "server.address": url.hostname,
    "server.port": Number(url.port),
    "http.response.status_code": 200,
    "onsale.shard.id": "shard-0",
    "onsale.batch.size": 1,
  });
  expect(attributesOf("lane wait")).toEqual([{ "onsale.command.kind": "book", "onsale.event.id": event.id }]);
  expect(attributesOf("batch")).toEqual([
    { "onsale.batch.size": 1, "onsale.batch.lock_wait_seconds": expect.any(Number) },
  ]);
  const database = new URL(cluster.shards[0]?.databaseUrl ?? "");
  expect(attributesOf("decide-batch")).toEqual([
    {
      "db.system.name": "postgresql",
      "db.namespace": database.pathname.slice(1),
      "db.query.summary": "decide-batch",
      "db.query.text": expect.stringMatching(/^select .*decide_batch\(.*\) as result$/),
      "server.address": database.hostname,
      "server.port": Number(database.port),
    },
  ]);
});

test("T2: every route is traced, short or not, and no buyer's data is on any span", async () => {
  await using collector = await startCollector();
  await using cluster = await startTestCluster({ shards: 2, env: tracedTo(collector, "1") });
  const client = cluster.client();
  const buyer = "a-buyer-that-nobody-may-see";
  const key = "a-key-that-nobody-may-see";

  const event = await client.createEvent();
  await client.send("PATCH", `/v1/events/${event.id}`, {
    as: "the-organizer",
    role: "organizer",
    body: { venue: "Hall" },
  });
  await client.readEvent(event.id);
  await client.send("GET", "/v1/events?limit=1");
  const booked = await client.book(event.id, buyer, 1, { "idempotency-key": key });
  const held = await client.hold(event.id, buyer, { quantity: 1 }, { "idempotency-key": `${key}-2` });
  await client.confirm(held.body.id, buyer);
  await client.cancel(booked.body.id, buyer);
  await client.readBooking(booked.body.id, buyer);
  await client.send("GET", "/nowhere");
  await cluster[Symbol.asyncDispose]();

  const requests = collector.spans.filter(
    (span) => span.kind === "server" && span.service === "onsale-router",
  );
  expect(requests.map((span) => `${span.attributes["http.response.status_code"]} ${span.name}`)).toEqual([
    "201 POST /v1/events",
    "200 PATCH /v1/events/{id}",
    "200 GET /v1/events/{id}",
    "200 GET /v1/events",
    "201 POST /v1/events/{id}/bookings",
    "201 POST /v1/events/{id}/holds",
    "200 POST /v1/bookings/{id}/confirm",
    "200 DELETE /v1/bookings/{id}",
    "200 GET /v1/bookings/{id}",
    "404 GET unmatched",
  ]);
  const statements = collector.spans.filter((span) => "db.query.text" in span.attributes);
  expect(new Set(statements.map((span) => span.name))).toEqual(
    new Set(["create-event", "change-event", "list-events", "decide-batch", "read-bookings"]),
  );
  // Both shards were asked for the list, in one trace.
  const list = requests.find((span) => span.name === "GET /v1/events");
  const asked = spansNamed(collector, "list-events").map((span) => span.traceId);
  expect(asked).toEqual([list?.traceId, list?.traceId]);
  const all = JSON.stringify(collector.spans, (_name, one: unknown) =>
    typeof one === "bigint" ? String(one) : one,
  );
  for (const secret of [buyer, key, "eyJ", INTERNAL_TOKEN, "limit=1"])
    expect([secret, all.includes(secret)]).toEqual([secret, false]);
});

const LOCK_WAITERS =
  "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";

test("T2: a call and a batch for several are linked with each of them, both ways", async () => {
  await using collector = await startCollector();
  const env = { ...tracedTo(collector), RPC_IN_FLIGHT_MAX: "1" };
  await using cluster = await startTestCluster({ shards: 1, env });
  const client = cluster.client();
  const event = await client.createEvent();
  const buyers = Array.from({ length: 20 }, (_none, index) => index + 1);
  // The first batch waits for the event's lock, and behind it the others gather.
  const lock = await lockEvent(cluster.shards[0]?.databaseUrl ?? "", event.id);
  const booked = Promise.all(
    buyers.map(async (n) => client.book(event.id, `u${n}`, 1, sampledIn(traceOf(n)))),
  );
  using other = connectTo(cluster.shards[0]?.databaseUrl ?? "");
  await eventually("a batch waits for the lock", async () => (await other.run(LOCK_WAITERS)).length > 0);
  lock.close();
  await booked;
  await Promise.all(buyers.map(async (n) => client.book(event.id, `not-sampled-${n}`)));
  await cluster[Symbol.asyncDispose]();

  const [requests, waits] = [spansNamed(collector, BOOKINGS), spansNamed(collector, "lane wait")];
  expect([requests.length, waits.length]).toEqual([20, 20]);
  const calls = spansNamed(collector, CALL).filter((span) => span.kind === "client");
  for (const [shared, members] of [
    [calls, requests],
    [spansNamed(collector, "batch"), waits],
  ] as const) {
    expect(shared.some((span) => span.links.length > 1)).toBe(true);
    expect(shared.flatMap(linksOf).toSorted()).toEqual(idsOf(members).toSorted());
    for (const span of shared) {
      const [id] = idsOf([span]);
      for (const member of members.filter((one) => linksOf(span).includes(idsOf([one])[0] ?? "")))
        expect([id, span.parentSpanId === member.spanId || linksOf(member).includes(id ?? "")]).toEqual([
          id,
          true,
        ]);
    }
  }
  // A command hangs under the call where that is of its trace, else under its request.
  const servers = spansNamed(collector, CALL).filter((span) => span.kind === "server");
  for (const wait of waits) {
    const parent = [...servers, ...requests].find((span) => span.spanId === wait.parentSpanId);
    expect(parent?.traceId).toBe(wait.traceId);
  }
});

test("T1: a malformed trace counts as none, and one that is not sampled is only named", async () => {
  await using collector = await startCollector();
  await using cluster = await startTestCluster({ shards: 1, env: tracedTo(collector) });
  const client = cluster.client();
  const ask = async (headers: Record<string, string>) =>
    client.send("GET", "/v1/events/00000000-0000-7000-8000-000000000000", { headers });

  for (const traceparent of [
    "",
    "nonsense",
    `00-${TRACE}-${CALLER}`,
    `ff-${TRACE}-${CALLER}-01`,
    `00-${TRACE.toUpperCase()}-${CALLER}-01`,
    `00-${"0".repeat(32)}-${CALLER}-01`,
    `00-${TRACE}-${"0".repeat(16)}-01`,
    `00-${TRACE}-${CALLER}-01-more`,
    `${SAMPLED.traceparent}, ${SAMPLED.traceparent}`,
  ]) {
    const { status, body } = await ask({ traceparent, tracestate: "=,=" });
    expect([traceparent, status, body.code, "traceId" in body]).toEqual([
      traceparent,
      404,
      "event_not_found",
      false,
    ]);
  }
  expect((await ask(NOT_SAMPLED)).body["traceId"]).toBe(TRACE);
  // Versions to come may have more to say (W3C Trace Context, §3.2.4).
  const sampled = await ask({ traceparent: `01-${TRACE}-${CALLER}-01-more`, tracestate: "=,=" });
  expect(sampled.body["traceId"]).toBe(TRACE);
  await cluster[Symbol.asyncDispose]();
  expect(spansNamed(collector, "GET /v1/events/{id}").map((span) => span.traceId)).toEqual([TRACE]);
});

test("T3: without a collector calls carry no trace and nothing is said of one", async () => {
  await using node = await startFakeNode(() => resultsOf([{ outcome: "sold_out" }]));
  const router = await startRouter(
    readConfig(routerConfig, {
      NODE_URLS: node.url,
      INTERNAL_TOKEN,
      AUTH_JWT_SECRET: SECRET,
      PORT: "0",
      ADMIN_PORT: "0",
      LOG_LEVEL: "silent",
    }),
  );
  const client = new Client(router.url);
  await eventually("the router knows the map", async () => (await fetch(`${router.adminUrl}/readyz`)).ok);
  const answer = await client.book(newEventId(Date.now()), "ada", 1, { ...SAMPLED, tracestate: "vendor=1" });
  await router.close();

  expect(answer.body).toMatchObject({ code: "sold_out" });
  expect(answer.body).not.toHaveProperty("traceId");
  expect(node.calls.map(({ path }) => path)).toEqual([RPC.commands]);
  for (const { headers, body } of node.calls) {
    expect(Object.keys(headers)).not.toContain("traceparent");
    expect(Object.keys(headers)).not.toContain("tracestate");
    expect(body).not.toContain("trace");
  }
});

test("T3: one in a hundred requests is sampled when nothing else is said", async () => {
  await using collector = await startCollector();
  const env = { OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: `${collector.url}/v1/traces` };
  await using cluster = await startTestCluster({ shards: 1, env });
  const url = `${cluster.routers[0]?.url}/v1/events/${(await cluster.client().createEvent()).id}`;
  for (let round = 0; round < 40; round += 1) {
    await Promise.all(Array.from({ length: 50 }, async () => (await fetch(url)).text()));
  }
  await cluster[Symbol.asyncDispose]();

  // Of 2,000: 20 are expected; outside of these bounds it is once in many millions.
  const sampled = spansNamed(collector, "GET /v1/events/{id}").length;
  expect(sampled).toBeGreaterThan(1);
  expect(sampled).toBeLessThan(55);
});

test("T4: a collector that does not answer, or is not there, costs no answer and no long end", async () => {
  await using collector = await startCollector();
  collector.behave("stall");
  await using cluster = await startTestCluster({ shards: 1, env: tracedTo(collector) });
  const nobody = { url: `http://127.0.0.1:${await getPort()}` };
  await cluster.addRouter(tracedTo(nobody));
  const event = await cluster.client().createEvent({ totalTickets: 1_000 });
  for (let round = 0; round < 20; round += 1) {
    const asked = cluster.routers.flatMap((router, index) => {
      const client = cluster.client(router);
      const reads = Array.from({ length: 20 }, async () =>
        client.send("GET", `/v1/events/${event.id}`, { headers: SAMPLED }),
      );
      return [...reads, client.book(event.id, `${index} ${round}`, 1, SAMPLED)];
    });
    const statuses = (await Promise.all(asked)).map(({ status }) => status);
    expect(tally(statuses)).toEqual({ 200: 40, 201: 2 });
  }
  for (const router of cluster.routers.splice(0)) {
    const closing = performance.now();
    await router.close();
    expect(performance.now() - closing).toBeLessThan(5_000);
  }
});

test("T4: spans wait for the collector in a queue of 2,048; what waits at the end is sent, and more is dropped", async () => {
  await using collector = await startCollector();
  collector.behave("stall");
  const registry = createRegistry();
  const service = { name: "onsale-router" } as const;
  const settings = readConfig(z.object(tracingSettings), tracedTo(collector, "1"));
  const tracing = await startTracing(settings, service, createLog("test", "silent"), registry);
  for (let count = 0; count < 5_000; count += 1) tracing?.begin({}, "a request")?.span?.end();
  await eventually("the first export is there", () => collector.exports() === 1);
  collector.behave("answer");
  await tracing?.close();

  expect(collector.spans.length).toBe(512 + 2_048);
  const text = await registry.metrics();
  for (const [state, spans] of [
    ["ended", 5_000],
    ["exported", 512 + 2_048],
  ])
    expect(text).toContain(`onsale_trace_spans_total{state="${state}"} ${spans}\n`);
});

test("T4 T5: an outage of the collector is said once, and a failed request's line names its trace", async () => {
  await using collector = await startCollector();
  collector.behave("refuse");
  using copy = copySources();
  copy.plant({
    file: "router/shards/cluster.ts",
    find: "command(command: Command, span?: Span): Promise<CommandResult> {",
    replace: "async command(command: Command, span?: Span): Promise<CommandResult> { null.bug;",
  });
  await using node = await startFakeNode(() => resultsOf([]));
  const [port, admin] = [await getPort(), await getPort()];
  await using router = start(join(copy.directory, "router/main.ts"), {
    NODE_URLS: node.url,
    INTERNAL_TOKEN,
    AUTH_JWT_SECRET: SECRET,
    PORT: String(port),
    ADMIN_PORT: String(admin),
    ...tracedTo(collector, "1"),
  });
  await eventually("the router is ready", async () => isReady(admin));
  const client = new Client(`http://127.0.0.1:${port}`);
  const event = newEventId(Date.now());

  const short = await client.book(event, "ada", 1, SAMPLED);
  const routed = await client.hold(event, "ada", { quantity: 1 }, SAMPLED);
  const own = await client.send("GET", "/nowhere");
  const keepAsking = async () => client.send("GET", "/nowhere");
  await eventually(
    "three exports were refused",
    async () => (await keepAsking()) && collector.exports() >= 3,
  );
  collector.behave("answer");
  await eventually("one was taken", async () => (await keepAsking()) && collector.spans.length > 0);
  router.stop("SIGTERM");

  for (const { status, body } of [short, routed])
    expect([status, body.code, body["traceId"]]).toEqual([500, "internal", TRACE]);
  expect(own.body["traceId"]).toMatch(/^[0-9a-f]{32}$/);
  const { code, stdout, stderr } = await router.exited;
  expect([code, stderr]).toEqual([0, ""]);
  const lines = linesIn(stdout);
  const failed = lines.filter((line) => line["msg"] === "a request failed");
  expect(failed.map((line) => [line["traceId"], line["requestId"]])).toEqual([
    [TRACE, short.body.requestId],
    [TRACE, routed.body.requestId],
  ]);
  expect(lines.map((line) => line["msg"]).filter((message) => /collector/.test(String(message)))).toEqual([
    "the collector of traces is away",
    "the collector of traces is back",
  ]);
});

test("T5: what a node logs of a batch that failed names its trace, and so do the answers", async () => {
  await using collector = await startCollector();
  await using cluster = await startTestCluster({ shards: 1, routers: 0 });
  const [port, admin] = [await getPort(), await getPort()];
  await using node = start("shard-node/main.ts", {
    SHARD_ID: "shard-0",
    DATABASE_URL: cluster.shards[0]?.databaseUrl ?? "",
    CATALOG_URL: cluster.catalogUrl,
    INTERNAL_TOKEN,
    PORT: String(port),
    ADMIN_PORT: String(admin),
    ...tracedTo(collector),
  });
  await eventually("the node is ready", async () => isReady(admin));
  await administer(cluster.shards[0]?.databaseUrl ?? "", "drop function decide_batch");
  const eventId = newEventId(Date.now());
  const book = bookCommand(eventId, "ada", 1, "k");
  const answer = await fetch(`http://127.0.0.1:${port}${RPC.commands}`, {
    method: "POST",
    headers: RPC_HEADERS,
    body: JSON.stringify({
      sentAt: 0,
      commands: [{ ...book, key: "other", userId: "eve" }, book],
      traces: [
        { command: 1, ...SAMPLED },
        { command: 0, traceparent: "nonsense" },
      ],
    }),
  });
  expect(await answer.json()).toMatchObject({
    results: [{ outcome: "shard_unavailable" }, { outcome: "shard_unavailable" }],
  });
  node.stop("SIGTERM");

  const { stdout } = await node.exited;
  const lines = linesIn(stdout);
  expect(lines.find((line) => line["msg"] === "deciding batches is away")).toMatchObject({ traceId: TRACE });
  // Both tries, under a batch that failed.
  expect(treeOf(collector.spans, CALLER)).toEqual([
    "onsale-shard-node internal lane wait",
    "onsale-shard-node internal batch",
    "  onsale-shard-node client decide-batch",
    "  onsale-shard-node client decide-batch",
  ]);
  expect(spansNamed(collector, "decide-batch").map((span) => span.attributes["error.type"])).toEqual([
    "42883",
    "42883",
  ]);
  expect(
    spansNamed(collector, "batch").map((span) => [span.status.code, span.attributes["error.type"]]),
  ).toEqual([[2, "shard_unavailable"]]);
});

test("T5: a refusal from memory names its trace, on the short path and on the route", async () => {
  await using collector = await startCollector();
  await using cluster = await startTestCluster({ shards: 1, env: tracedTo(collector) });
  const limited = await cluster.addRouter({ RATE_LIMIT_PER_USER: "1000" });
  const event = await cluster.client().createEvent({ totalTickets: 1 });
  for (const router of [cluster.routers[0], limited]) {
    const client = cluster.client(router);
    const refused = async (headers: Record<string, string>): Promise<ProblemBody> =>
      (await client.book(event.id, "eve", 1, headers)).body;
    await client.book(event.id, "ada");
    const [plain, named, sampled] = [await refused({}), await refused(NOT_SAMPLED), await refused(SAMPLED)];
    expect([plain.code, named.code, sampled.code]).toEqual(["sold_out", "sold_out", "sold_out"]);
    expect(plain).not.toHaveProperty("traceId");
    expect([named["traceId"], sampled["traceId"]]).toEqual([TRACE, TRACE]);
    expect(sampled).toEqual({ ...plain, requestId: sampled.requestId, traceId: TRACE });
  }
});

test("T3: settings of tracing that would be ignored or make no sense are refused", () => {
  const given = { NODE_URLS: "http://127.0.0.1:1", INTERNAL_TOKEN, AUTH_JWT_SECRET: SECRET };
  const ratioOf = (ratio?: string) =>
    readConfig(routerConfig, { ...given, OTEL_TRACES_SAMPLER_ARG: ratio }).OTEL_TRACES_SAMPLER_ARG;
  expect([ratioOf(), ratioOf("0"), ratioOf("0.25"), ratioOf(".5"), ratioOf("1"), ratioOf("1.0")]).toEqual([
    0.01, 0, 0.25, 0.5, 1, 1,
  ]);
  for (const [name, nonsense] of Object.entries({
    OTEL_TRACES_SAMPLER_ARG: "1.5",
    OTEL_TRACES_SAMPLER: "always_on",
    OTEL_EXPORTER_OTLP_ENDPOINT: "collector:4318",
    OTEL_EXPORTER_OTLP_PROTOCOL: "grpc",
  }))
    expect(() => readConfig(routerConfig, { ...given, [name]: nonsense })).toThrow(`  ${name}: must`);
});
