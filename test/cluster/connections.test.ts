/** Connections of clients that send ahead, do not read, close halves or keep sending, as the servers of a cluster treat them. */
import { connect, type Socket } from "node:net";
import { text } from "node:stream/consumers";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Event } from "../../shared/domain/events.ts";
import { eventually } from "../support/eventually.ts";
import { ORGANIZER } from "../support/commands.ts";
import {
  type Client,
  INTERNAL_TOKEN,
  startTestCluster,
  tally,
  type TestCluster,
  tokenOf,
} from "../support/running-cluster.ts";

let cluster: TestCluster;
let client: Client;
let event: Event;
beforeAll(async () => {
  cluster = await startTestCluster({ env: { CORS_ORIGINS: "https://shop.example" } });
  client = cluster.client();
  event = await client.createEvent({ totalTickets: 1_000 });
});
afterAll(async () => cluster[Symbol.asyncDispose]());

function dial(url: string, bytes: string): Socket {
  const { hostname: host, port } = new URL(url);
  const socket = connect({ host, port: Number(port), allowHalfOpen: true }).on("error", () => undefined);
  socket.write(bytes);
  return socket;
}

const ask = (line: string, ...headers: string[]) =>
  [`${line} HTTP/1.1`, "host: x", ...headers, "", ""].join("\r\n");
const booking = async (user: string, ...headers: string[]) =>
  ask(
    `POST /v1/events/${event.id}/bookings`,
    `authorization: Bearer ${await tokenOf(user)}`,
    "content-type: application/json",
    ...headers,
  );
const BODY = '{"quantity":1}';
const whole = async (user: string) => (await booking(user, `content-length: ${BODY.length}`)) + BODY;
const statuses = (answers: string) => [...answers.matchAll(/HTTP\/1\.1 (\d{3})/g)].map((match) => match[1]);

test("F2: crowds that ask ahead and never read stop nobody, and no more is begun for them than they read", async () => {
  const { adminUrl = "", url = "" } = cluster.routers[0] ?? {};
  const metric = async (pattern: RegExp) =>
    Number(pattern.exec(await (await fetch(`${adminUrl}/metrics`)).text())?.[1] ?? 0);
  const list = /onsale_http_requests_total\{route="\/v1\/events",method="GET",status="200"\} (\d+)/;
  const cutOff = /onsale_shed_total\{reason="ahead_full"\} (\d+)/;
  const listed = await metric(list);
  const sockets = [
    ...Array.from({ length: 50 }, () => dial(url, ask("GET /v1/events").repeat(2_000))),
    ...Array.from({ length: 50 }, () => dial(url, ask("GET /docs/swagger-ui-bundle.js").repeat(200))),
    ...Array.from({ length: 150 }, () => dial(url, ask("GET /docs/swagger-ui-bundle.js").repeat(300))),
    // They stay below the bound.
    ...Array.from({ length: 15 }, () => dial(url, ask("GET /docs/swagger-ui-bundle.js").repeat(100))),
  ];
  for (const socket of sockets) socket.pause();
  const booked = await Promise.all(
    Array.from({ length: 50 }, async (_, index) => client.book(event.id, `honest-${index}`)),
  );
  expect(tally(booked.map(({ status }) => status))).toEqual({ 201: 50 });
  await eventually("who asks too far ahead is cut off", async () => (await metric(cutOff)) === 250);
  expect((await fetch(`${adminUrl}/readyz`)).status).toBe(200);
  expect((await metric(list)) - listed).toBeLessThanOrEqual(50);
  for (const socket of sockets) socket.destroy();
});

test("F5 F1: a client that closes its half after asking gets its answer", async () => {
  const socket = dial(client.url, "");
  socket.end(await whole("half"));
  const answer = await text(socket);
  expect(answer).toMatch(/^HTTP\/1\.1 201 /);
  expect(answer).toContain('"userId":"half"');
});

test("S2: a booking, and CONNECT behind it, get one answer, which is the booking's", async () => {
  const answer = await text(dial(client.url, (await whole("proxied")) + ask("CONNECT x:443")));
  expect(statuses(answer)).toEqual(["201"]);
});

test("S2: two lines of a header that there can be only one of are refused with a problem", async () => {
  const token = await tokenOf("twice");
  for (const line of [
    "Host: y",
    `Authorization: Bearer ${token}`,
    "Content-Type: application/json",
    `Content-Length: ${BODY.length}`,
    "Idempotency-Key: b",
  ]) {
    const lines = ["connection: close", "idempotency-key: a", `content-length: ${BODY.length}`, line];
    const answer = await text(dial(client.url, (await booking("twice", ...lines)) + BODY));
    expect([line, statuses(answer)]).toEqual([line, ["400"]]);
    expect(answer).toMatch(/content-type: application\/problem\+json; charset=utf-8\r\n/i);
    expect(answer).toMatch(/vary: origin\r\n/i);
    expect(answer).toContain('"code":"invalid_request"');
  }
  const named = await text(
    dial(client.url, ask("GET /v1/events", "host: y", "x-request-id: mine", "connection: close")),
  );
  expect(named).toMatch(/x-request-id: mine\r\n[^]*The host header is there twice\.[^]*"requestId":"mine"/);
});

test("S8: bytes that are no request get the headers of every problem", async () => {
  const answer = await text(dial(client.url, "hello\r\n\r\n"));
  for (const header of [
    "content-type: application/problem+json; charset=utf-8",
    "cache-control: no-store",
    "vary: origin",
    "connection: close",
    "date: ",
    "x-request-id: ",
  ])
    expect(answer).toContain(`\r\n${header}`);
});

test("F2: who is refused while its body is under way is told that the connection closes, and can read it", async () => {
  const organizer = await tokenOf(ORGANIZER, "organizer");
  const size = `content-length: ${64 * 1024 * 1024}`;
  for (const [code, head] of [
    ["unauthenticated", ask(`POST /v1/events/${event.id}/bookings`, size)],
    ["forbidden", ask(`POST /v1/events/${event.id}/bookings`, `authorization: Bearer ${organizer}`, size)],
    ["body_too_large", await booking("large", size)],
    ["body_too_large", (await booking("large", "transfer-encoding: chunked")) + "100000\r\n"],
    ["unsupported_media_type", (await booking("large", size)).replace("application/json", "text/plain")],
    ["not_found", ask("POST /v1/nothing", size)],
    ["method_not_allowed", ask("PUT /v1/events", size)],
    ["invalid_request", ask(`POST /v1/events/${event.id}/bookings`, "host: y", size)],
  ] as const) {
    const socket = dial(client.url, head + "x".repeat(1024 * 1024));
    const answer = await text(socket);
    expect([code, statuses(answer)]).toEqual([code, [expect.stringMatching(/^4/)]]);
    expect(answer).toContain(`"code":"${code}"`);
    expect(answer).toMatch(/\r\nconnection: close\r\n/i);
    await eventually(`the connection of ${code} is closed`, () => {
      socket.write("x");
      return socket.destroyed;
    });
  }
});

test("F2: 100 Continue is for those who are not refused anyway", async () => {
  const limited = await cluster.addRouter({ RATE_LIMIT_PER_USER: "1" });
  const wait = ["expect: 100-continue", "connection: close"];
  const size = `content-length: ${BODY.length}`;
  const asked = async (head: string, url = client.url) => statuses(await text(dial(url, head)));
  expect(await asked(ask(`POST /v1/events/${event.id}/bookings`, size, ...wait))).toEqual(["401"]);
  expect(await asked(ask("POST /v1/nothing", size, ...wait))).toEqual(["404"]);
  expect(await asked(await booking("waits", "content-length: 16385", ...wait))).toEqual(["413"]);
  expect(
    await asked(ask(`POST /v1/events`, `authorization: Bearer ${await tokenOf("waits")}`, size, ...wait)),
  ).toEqual(["403"]);
  const plain = (await booking("waits", size, ...wait)).replace("application/json", "text/plain");
  expect(await asked(plain)).toEqual(["415"]);
  const answers = await Promise.all(
    Array.from({ length: 10 }, async () => {
      const socket = dial(limited.url, await booking("hasty", size, ...wait));
      socket.once("data", (first: Buffer) => {
        if (first.includes("100 Continue")) socket.write(BODY);
      });
      return statuses(await text(socket)).join(" ");
    }),
  );
  expect([...new Set(answers)].toSorted()).toEqual(["100 201", "429"]);
});

test("S2: OPTIONS * says what the server can do", async () => {
  const answer = await text(dial(client.url, ask("OPTIONS *", "x-request-id: whole", "connection: close")));
  expect(answer).toMatch(/^HTTP\/1\.1 204 /);
  expect(answer).toMatch(/allow: DELETE, GET, HEAD, OPTIONS, PATCH, POST\r\n/i);
  expect(answer).toMatch(/x-request-id: whole\r\n/i);
  expect(statuses(await text(dial(client.url, ask("GET *", "connection: close"))))).toEqual(["400"]);
});

test("A7: the documentation can be switched off", async () => {
  const off = cluster.client(await cluster.addRouter({ DOCUMENTATION: "off" }));
  for (const path of ["/docs", "/docs/start.js", "/docs/swagger-ui-bundle.js", "/openapi.json", "/"]) {
    const { status, body } = await off.send("GET", path, { headers: { accept: "text/html" } });
    expect([path, status, body.code]).toEqual([path, 404, "not_found"]);
  }
  expect((await off.send("GET", `/v1/events/${event.id}`)).status).toBe(200);
});

test("S2 F2: nodes and admin ports treat connections as routers do", async () => {
  const [node] = cluster.nodes;
  const auth = `authorization: Bearer ${INTERNAL_TOKEN}`;
  for (const [url, path, status] of [
    [node?.url ?? "", "/rpc/map", "400"],
    [node?.adminUrl ?? "", "/healthz", "200"],
    [cluster.routers[0]?.adminUrl ?? "", "/healthz", "200"],
  ] as const) {
    const garbage = ask(`GET ${path}`, auth) + "GARBAGE\r\n\r\n";
    expect([url, statuses(await text(dial(url, garbage)))]).toEqual([url, [status]]);
    expect(statuses(await text(dial(url, ask(`GET ${path}`, "host: y", "connection: close"))))).toEqual([
      "400",
    ]);
    const half = dial(url, "");
    half.end(ask(`GET ${path}`, auth));
    expect(statuses(await text(half))).toEqual([status]);
    const ahead = dial(url, ask(`GET ${path}`, auth).repeat(300)).resume();
    await eventually("who asks too far ahead is cut off", () => ahead.destroyed || ahead.readableEnded);
  }
});
