/** The nginx configuration of deploy/nginx with a real nginx, in front of real routers and of routers that misbehave. */
import { once } from "node:events";
import type { IncomingMessage } from "node:http";
import { connect } from "node:net";
import { expect, test, type TestContext } from "vitest";
import { findNginx, startMicroCache } from "../../bench/load/micro-cache.ts";
import { Client, startTestCluster } from "../support/running-cluster.ts";
import { eventually } from "../support/eventually.ts";
import { serve } from "../support/listen.ts";

const program = findNginx() ?? "";
if (program === "") console.warn("SKIPPED: tests of deploy/nginx (nginx is not installed)");

/** Reports the test as skipped where it cannot run. */
function skipWithoutNginx({ skip }: TestContext): void {
  skip(program === "", "SKIPPED: nginx is not installed");
}

async function startNginx(...routers: readonly { url: string }[]) {
  const urls = routers.map(({ url }) => url);
  const nginx = await startMicroCache(program, urls, { signal: AbortSignal.timeout(60_000) });
  return Object.assign(nginx, { url: `http://127.0.0.1:${nginx.port}` });
}

test("C7: nginx asks a router once for a crowd, follows a booking, and outlives the routers", async (context) => {
  skipWithoutNginx(context);
  await using cluster = await startTestCluster({ shards: 1, routers: 2 });
  await using nginx = await startNginx(...cluster.routers);
  const client = new Client(nginx.url);
  const event = await client.createEvent({ totalTickets: 10 });
  const path = `/v1/events/${event.id}`;
  const read = async (headers: Record<string, string> = {}, query = "") =>
    fetch(`${nginx.url}${path}${query}`, { headers });
  const asked = async () => {
    const texts = await Promise.all(
      cluster.routers.map(async ({ adminUrl }) => (await fetch(`${adminUrl}/metrics`)).text()),
    );
    const counts = texts.flatMap((text) => [
      ...text.matchAll(
        /^onsale_http_requests_total\{route="\/v1\/events\/\{id\}",method="GET",status="200"\} (\d+)$/gm,
      ),
    ]);
    return counts.reduce((sum, [, count]) => sum + Number(count), 0);
  };

  const started = performance.now();
  const crowd = await Promise.all(Array.from({ length: 50 }, async () => read()));
  const seconds = Math.floor((performance.now() - started) / 1_000);
  expect(crowd.map(({ status }) => status)).toEqual(Array(50).fill(200));
  expect(await asked()).toBeLessThanOrEqual(1 + seconds);
  const said = crowd.map(({ headers }) => headers.get("cache-status") ?? "");
  expect(said.filter((status) => status.endsWith("nginx; hit")).length).toBeGreaterThan(40);
  expect(said.filter((status) => status.startsWith("onsale; "))).toHaveLength(50);

  // What a client knows already is not sent again, and a query makes no second copy.
  const etag = crowd[0]?.headers.get("etag") ?? "";
  expect(etag).toBe('"1"');
  const known = await read({ "if-none-match": etag });
  expect([known.status, await known.text(), known.headers.get("etag")]).toEqual([304, "", etag]);
  expect((await read({}, "?crowd=1")).headers.get("cache-status")).toContain("nginx; hit");

  const booking = await client.book(event.id, "ann");
  expect([booking.status, booking.headers.get("cache-status")]).toEqual([201, null]);
  const booked = performance.now();
  await eventually("the booking shows", async () => {
    const asked = performance.now();
    const { availableTickets } = await client.readEvent(event.id);
    expect(asked - booked > 4_000 && availableTickets !== 9, "a read after 4 s is old").toBe(false);
    return availableTickets === 9;
  });
  const current = await read();
  expect(current.headers.get("etag")).toBe('"2"');

  for (const router of cluster.routers.splice(0)) await router.close();
  // Also when it is older than its Cache-Control allows: six seconds.
  const closed = performance.now();
  const stale = await eventually("what is kept is old", async () => {
    const answer = await read();
    expect([answer.status, await answer.json()]).toMatchObject([200, { availableTickets: 9 }]);
    return performance.now() - closed > 7_000 && answer;
  });
  expect(stale.headers.get("cache-status")).toMatch(/nginx; hit; detail=stale$/);
  expect(stale.headers.get("etag")).toBe('"2"');
  const unread = await client.send(
    "GET",
    path.replace(/.$/, (last) => (last === "0" ? "1" : "0")),
  );
  expect([unread.status, unread.headers.get("content-type"), unread.body.code]).toEqual([
    503,
    "application/problem+json",
    "overloaded",
  ]);
  expect(await client.book(event.id, "bob")).toMatchObject({
    status: 503,
    body: { code: "outcome_unknown" },
  });
});

test("C7: a write that was sent is never sent twice, and one that was not sent goes to the next router", async (context) => {
  skipWithoutNginx(context);
  const seen: string[] = [];
  const hangUp = (request: IncomingMessage) => {
    seen.push(`${request.method} ${request.url}`);
    request.socket.destroy();
  };
  await using first = await serve(hangUp);
  await using second = await serve(hangUp);
  await using nginx = await startNginx(first, second);
  const client = new Client(nginx.url);

  for (const [method, path] of [
    ["POST", "/v1/events/a/bookings"],
    ["PATCH", "/v1/events/00000000-0000-7000-8000-000000000000"],
  ] as const) {
    const { status, body } = await client.send(method, path, { body: { quantity: 1 } });
    expect([status, body.code]).toEqual([503, "outcome_unknown"]);
    expect(seen.splice(0)).toEqual([`${method} ${path}`]);
  }
  // To cancel twice is to cancel once (B11).
  await client.send("DELETE", "/v1/bookings/b");
  expect(seen.splice(0)).toEqual(["DELETE /v1/bookings/b", "DELETE /v1/bookings/b"]);

  await using answering = await serve((request, response) => {
    seen.push(`${request.method} ${request.url}`);
    response.writeHead(201).end("{}");
  });
  await first[Symbol.asyncDispose]();
  await using behind = await startNginx(first, answering);
  for (let index = 0; index < 4; index += 1)
    expect((await new Client(behind.url).send("POST", `/${index}`, { body: {} })).status).toBe(201);
  expect(seen).toEqual(["POST /0", "POST /1", "POST /2", "POST /3"]);
});

test("C7 F2: a router hears of a client's true address, and of a slow client nothing", async (context) => {
  skipWithoutNginx(context);
  const requests: IncomingMessage[] = [];
  await using router = await serve((request, response) => {
    requests.push(request);
    request.resume().on("end", () => response.end("{}"));
  });
  await using nginx = await startNginx(router);

  const forged = {
    "x-forwarded-for": "198.51.100.1",
    forwarded: "for=198.51.100.1",
    "x-forwarded-proto": "https",
    traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    tracestate: "vendor=1",
    baggage: "user=ada",
  };
  await new Client(nginx.url).send("GET", "/v1/events", { headers: forged });
  const { headers } = requests.splice(0)[0] ?? {};
  expect([headers?.["x-forwarded-for"], headers?.["x-forwarded-proto"], headers?.forwarded]).toEqual([
    "127.0.0.1",
    "http",
    undefined,
  ]);

  for (const header of ["traceparent", "tracestate", "baggage"]) expect(headers).not.toHaveProperty(header);

  const slow = connect(nginx.port, "127.0.0.1");
  await once(slow, "connect");
  slow.write("POST /v1/events/a/bookings HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n{");
  const ended = new Promise((resolve) => slow.on("error", () => undefined).once("close", resolve));
  const large = await new Client(nginx.url).send("POST", "/v1/events", { body: "x".repeat(70_000) });
  expect([large.status, large.body.code]).toEqual([413, "body_too_large"]);
  await ended;
  expect(requests).toEqual([]);
  slow.destroy();
});
