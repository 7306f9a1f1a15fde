import { connect } from "node:net";
import { createHmac, generateKeyPairSync, sign } from "node:crypto";
import { text } from "node:stream/consumers";
import { afterAll, beforeAll, expect, test } from "vitest";
import { PROBLEMS, type ProblemCode } from "../../router/http/problems.ts";
import type { Event } from "../../shared/domain/events.ts";
import {
  type Answer,
  type Client,
  type ProblemBody,
  SECRET,
  startTestCluster,
  type TestCluster,
  tokenOf,
} from "../support/running-cluster.ts";
import { ORGANIZER } from "../support/commands.ts";
import { eventually } from "../support/eventually.ts";

let cluster: TestCluster;
let client: Client;
let event: Event;
beforeAll(async () => {
  cluster = await startTestCluster();
  client = cluster.client();
  event = await client.createEvent();
});
afterAll(async () => cluster[Symbol.asyncDispose]());

/** A refusal of the contract: its status, its code, a request id that agrees with the header, no internals. */
function expectProblem(answer: Answer<ProblemBody>, code: ProblemCode): void {
  const { body, headers, status } = answer;
  expect({ status, code: body.code, title: body["title"], type: headers.get("content-type") }).toEqual({
    status: PROBLEMS[code].status,
    code,
    title: PROBLEMS[code].title,
    type: "application/problem+json; charset=utf-8",
  });
  expect(body["status"]).toBe(status);
  expect(body.requestId).toBe(headers.get("x-request-id"));
  expect(body["detail"]).toEqual(expect.any(String));
  expect(JSON.stringify(body)).not.toMatch(/node_modules|\.ts:|select |insert /i);
}

const book = (body: unknown, headers: Record<string, string> = {}) =>
  client.send("POST", `/v1/events/${event.id}/bookings`, { as: "buyer", body, headers });

test("S2: a quantity that is no whole number from 1 to 100 is refused", async () => {
  for (const quantity of [0, -1, 1e9, 1.5, "2", null, true, [1], {}, 101]) {
    const answer = await book({ quantity });
    expectProblem(answer, "invalid_request");
    expect(answer.body["errors"]).toEqual([{ path: "quantity", message: expect.any(String) }]);
  }
  expectProblem(await book({}), "invalid_request");
});

test("S2: a body that is no JSON object of known fields is refused", async () => {
  for (const body of [
    "{",
    "[]",
    '"x"',
    "1",
    "null",
    "",
    '{"quantity":1,}',
    '{"quantity":1,"extra":1}',
    '{"__proto__":{"quantity":1}}',
  ]) {
    expectProblem(await book(body), "invalid_request");
  }
  expectProblem(
    await client.send("POST", `/v1/events/${event.id}/bookings`, { as: "buyer" }),
    "invalid_request",
  );
  expectProblem(
    await book("quantity=1", { "content-type": "application/x-www-form-urlencoded" }),
    "unsupported_media_type",
  );
  expectProblem(await book('{"quantity":1}', { "content-type": "text/plain" }), "unsupported_media_type");
  expectProblem(await book(`{"quantity":1,"x":"${"x".repeat(20 * 1024)}"}`), "body_too_large");
});

test("S2: ids that are no UUIDs, and keys with control characters, are refused", async () => {
  for (const id of [
    "1",
    "x".repeat(36),
    "x".repeat(300),
    `${event.id}0`,
    "%00",
    "..%2f",
    "null",
    `{${event.id}}`,
  ]) {
    expectProblem(await client.send("GET", `/v1/events/${id}`), "invalid_request");
    expectProblem(await client.send("GET", `/v1/bookings/${id}`, { as: "buyer" }), "invalid_request");
    expectProblem(
      await client.send("POST", `/v1/events/${id}/bookings`, { as: "buyer", body: { quantity: 1 } }),
      "invalid_request",
    );
  }
  for (const key of ["a\tb", "k".repeat(129), "käse", ""]) {
    const answer = await book({ quantity: 1 }, { "idempotency-key": key });
    expectProblem(answer, "invalid_request");
  }
});

test("S2: events with impossible fields are refused", async () => {
  const valid = { name: "x", startsAt: "2030-01-01T00:00:00Z", totalTickets: 1 };
  const create = (body: unknown) => client.send("POST", "/v1/events", { as: "o", role: "organizer", body });
  for (const change of [
    { name: "" },
    { name: "   " },
    { name: "x".repeat(201) },
    { name: "nul\u0000" },
    { name: "\ud800" },
    { name: 7 },
    { venue: "" },
    { startsAt: "tomorrow" },
    { startsAt: "2030-02-30T00:00:00Z" },
    { startsAt: "0000-01-01T00:00:00Z" },
    { startsAt: "0001-01-01T00:00:00+00:01" },
    { startsAt: "9999-12-31T23:59:59-00:01" },
    { name: "\u200b" },
    { startsAt: 1 },
    { totalTickets: 0 },
    { totalTickets: 10_000_001 },
    { totalTickets: "5" },
    { maxPerUser: 0 },
    { maxPerUser: 101 },
    { salesStartAt: "2030-01-02T00:00:00Z", salesEndAt: "2030-01-01T00:00:00Z" },
    { status: "on_sale" },
    { id: event.id },
    { version: 1 },
  ]) {
    expectProblem(await create({ ...valid, ...change }), "invalid_request");
  }
  const change = (body: unknown) =>
    client.send("PATCH", `/v1/events/${event.id}`, { as: ORGANIZER, role: "organizer", body });
  for (const body of [
    { salesEndAt: "9999-12-31T23:59:59-14:00" },
    { status: "sold" },
    { availableTickets: 5 },
    { name: null },
    { version: 9 },
  ]) {
    expectProblem(await change(body), "invalid_request");
  }
  expect(await client.readEvent(event.id)).toEqual(event);
});

test("S2: list parameters out of bounds are refused", async () => {
  for (const query of [
    "limit=0",
    "limit=101",
    "limit=x",
    "limit=1.5",
    "limit=-1",
    "limit=1&limit=2",
    "cursor=x",
    "cursor=",
    "page=2",
  ]) {
    expectProblem(await client.send("GET", `/v1/events?${query}`), "invalid_request");
  }
});

test("S2: holds outside their bounds are refused", async () => {
  for (const fields of [
    { quantity: 1, ttlSeconds: 0 },
    { quantity: 1, ttlSeconds: 3601 },
    { quantity: 1, ttlSeconds: "9" },
    { quantity: 0 },
    { ttlSeconds: 9 },
  ]) {
    expectProblem(await client.hold(event.id, "buyer", fields), "invalid_request");
  }
});

test("S2: unknown paths and methods are told so", async () => {
  for (const path of [
    "/",
    "/v1",
    "/v2/events",
    `/v1/events/${event.id}/tickets`,
    "/metrics",
    "/rpc/commands",
    "/.env",
  ]) {
    expectProblem(await client.send("GET", path), "not_found");
  }
  expect((await client.send("HEAD", "/")).status).toBe(404);
  for (const [method, path, allow] of [
    ["PUT", "/v1/events", "GET, HEAD, POST"],
    ["DELETE", `/v1/events/${event.id}`, "GET, HEAD, PATCH"],
    ["PUT", `/v1/events/${event.id}/bookings`, "GET, HEAD, POST"],
    ["OPTIONS", `/v1/bookings/${event.id}`, "DELETE, GET, HEAD"],
    ["PROPFIND", "/v1/events", "GET, HEAD, POST"],
  ] as const) {
    const answer = await client.send(method, path);
    expectProblem(answer, "method_not_allowed");
    expect(answer.headers.get("allow")).toBe(allow);
  }
});

test("S2: what is not HTTP, and headers beyond 16 KiB, are refused without harm", async () => {
  const port = Number(new URL(client.url).port);
  const raw = async (request: string) => {
    const socket = connect(port, "127.0.0.1");
    socket.end(request);
    return text(socket);
  };
  for (const request of [
    "hello\r\n\r\n",
    "BREW / HTTP/1.1\r\nhost: x\r\n\r\n",
    `GET / HTTP/1.1\r\nhost: x\r\nx-large: ${"x".repeat(20_000)}\r\n\r\n`,
    "GET / HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n",
    "POST /v1/events HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "GET /v1/events HTTP/1.1\r\nconnection: close\r\n\r\n",
    `GET /v1/events/${event.id} HTTP/1.1\r\nconnection: close\r\n\r\n`,
    "CONNECT example.com:443 HTTP/1.1\r\nhost: x\r\n\r\n",
    `POST /v1/events/${event.id}/bookings HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${await tokenOf("buyer")}\r\nconnection: close\r\nidempotency-key: a\r\nidempotency-key: b\r\ncontent-type: application/json\r\ncontent-length: 14\r\n\r\n{"quantity":1}`,
    `GET /v1/events/%zz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n`,
  ]) {
    const answer = await raw(request);
    expect(answer).toMatch(/^HTTP\/1\.1 400 /);
    expect(answer).toMatch(/x-request-id: \S+/i);
    expect(answer).toContain('"code":"invalid_request"');
  }
  expect(
    await raw("GET /v1/nothing HTTP/1.1\r\nhost: x\r\nexpect: 200-ok\r\nconnection: close\r\n\r\n"),
  ).toContain('"code":"not_found"');
  expect((await client.send("GET", `/v1/events/${event.id}`)).status).toBe(200);
});

test("S2 F2: a body that is broken, ends too early or stops is refused, and its connection is closed", async () => {
  const head =
    `POST /v1/events/${event.id}/bookings HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${await tokenOf("slow")}\r\n` +
    "content-type: application/json\r\n";
  const chunked = `${head}transfer-encoding: chunked\r\n\r\n`;
  const short = `${head}content-length: 14\r\n\r\n{"quan`;
  const open = () =>
    connect({ port: Number(new URL(client.url).port), host: "127.0.0.1", allowHalfOpen: true });
  const ask = async (what: string, bytes: string, isOver: boolean) => {
    const socket = open();
    if (isOver) socket.end(bytes);
    else socket.write(bytes);
    const answer = await text(socket);
    expect([what, answer.slice(0, 12)]).toEqual([what, "HTTP/1.1 400"]);
    expect(answer).toContain('"code":"invalid_request"');
    await eventually(`the connection of ${what} is closed`, async () => {
      socket.write("x");
      return socket.destroyed;
    });
  };
  const unused = open();
  await Promise.all([
    ask("a chunk without a length", `${chunked}zz\r\n`, false),
    ask("a good chunk and a bad one", `${chunked}2\r\n{"\r\nzz\r\n`, false),
    ask("a short body", short, true),
    // Until the time for a whole request is over.
    ask("a body that stops", short, false),
  ]);
  // A connection that was opened in advance gets no answer that its first request could take for its own.
  expect(await text(unused)).toBe("");
  expect((await client.readEvent(event.id)).version).toBe(event.version);
});

test("S2 F1: what follows a booking on its connection never answers in its place", async () => {
  const { id } = await client.createEvent();
  const socket = connect(Number(new URL(client.url).port), "127.0.0.1");
  const head = `POST /v1/events/${id}/bookings HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${await tokenOf("followed")}\r\n`;
  socket.write(
    `${head}content-type: application/json\r\ncontent-length: 14\r\n\r\n{"quantity":1}hello\r\n\r\n`,
  );
  const answer = await text(socket);
  expect(answer).toMatch(/^HTTP\/1\.1 201 /);
  expect(answer.match(/HTTP\/1\.1/g)).toHaveLength(1);
  // Nor does a second request whose body is broken, while the first has no answer yet.
  const second = connect(Number(new URL(client.url).port), "127.0.0.1");
  const json = `${head}content-type: application/json\r\n`;
  second.write(
    `${json}content-length: 14\r\n\r\n{"quantity":1}${json}transfer-encoding: chunked\r\n\r\nzz\r\n`,
  );
  const answers = await text(second);
  expect(answers).toMatch(/^HTTP\/1\.1 201 /);
  expect(answers.match(/HTTP\/1\.1/g)).toHaveLength(1);
});

test("S1: without a valid token nothing is written and no booking is read", async () => {
  const encode = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const forge = (header: object, claims: object, key = SECRET) => {
    const signed = `${encode(header)}.${encode(claims)}`;
    return `${signed}.${createHmac("sha256", key).update(signed).digest("base64url")}`;
  };
  const soon = Math.floor(Date.now() / 1000) + 600;
  const { privateKey } = generateKeyPairSync("ed25519");
  const eddsa = `${encode({ alg: "EdDSA" })}.${encode({ sub: "x", exp: soon })}`;
  const bad: Record<string, string> = {
    absent: "",
    "not a bearer token": "Basic dTpw",
    garbage: "Bearer x.y.z",
    "alg none": `Bearer ${encode({ alg: "none" })}.${encode({ sub: "x", role: "operator", exp: soon })}.`,
    "another key": `Bearer ${forge({ alg: "HS256" }, { sub: "x", exp: soon }, "another-secret-of-32-characters!!")}`,
    "another algorithm": `Bearer ${eddsa}.${sign(null, Buffer.from(eddsa), privateKey).toString("base64url")}`,
    expired: `Bearer ${forge({ alg: "HS256" }, { sub: "x", exp: soon - 1200 })}`,
    "no exp": `Bearer ${forge({ alg: "HS256" }, { sub: "x" })}`,
    "no sub": `Bearer ${forge({ alg: "HS256" }, { exp: soon })}`,
    "empty sub": `Bearer ${forge({ alg: "HS256" }, { sub: "", exp: soon })}`,
    "sub too long": `Bearer ${forge({ alg: "HS256" }, { sub: "x".repeat(256), exp: soon })}`,
    "sub with NUL": `Bearer ${forge({ alg: "HS256" }, { sub: "a\u0000", exp: soon })}`,
    "unknown role": `Bearer ${forge({ alg: "HS256" }, { sub: "x", role: "admin", exp: soon })}`,
    tampered: `Bearer ${(await tokenOf("buyer")).replace(/.$/, (last) => (last === "A" ? "B" : "A"))}x`,
  };
  for (const [why, authorization] of Object.entries(bad)) {
    const headers: Record<string, string> = authorization === "" ? {} : { authorization };
    for (const [method, path, body] of [
      ["POST", "/v1/events", { name: "x" }],
      ["PATCH", `/v1/events/${event.id}`, { name: "x" }],
      ["POST", `/v1/events/${event.id}/bookings`, { quantity: 1 }],
      ["POST", `/v1/events/${event.id}/holds`, { quantity: 1 }],
      ["POST", `/v1/bookings/${event.id}/confirm`, undefined],
      ["GET", `/v1/bookings/${event.id}`, undefined],
      ["DELETE", `/v1/bookings/${event.id}`, undefined],
    ] as const) {
      const answer = await client.send(method, path, { headers, ...(body === undefined ? {} : { body }) });
      expect([why, method, path, answer.status]).toEqual([why, method, path, 401]);
      expectProblem(answer, "unauthenticated");
      expect([why, String(answer.body["detail"]).includes("sub")]).toEqual([why, why.includes("sub")]);
      expect(answer.headers.get("www-authenticate")).toMatch(/^Bearer/);
    }
  }
  expect((await client.readEvent(event.id)).version).toBe(1);
});

test("S1: each role may do its own work only", async () => {
  const expectForbidden = async (
    method: string,
    path: string,
    role: "buyer" | "organizer" | "operator",
    body: unknown,
  ) => expectProblem(await client.send(method, path, { as: "u", role, body }), "forbidden");
  await expectForbidden("POST", "/v1/events", "buyer", { name: "x" });
  await expectForbidden("POST", "/v1/events", "operator", { name: "x" });
  await expectForbidden("PATCH", `/v1/events/${event.id}`, "buyer", { name: "x" });
  await expectForbidden("POST", `/v1/events/${event.id}/bookings`, "organizer", { quantity: 1 });
  await expectForbidden("POST", `/v1/events/${event.id}/holds`, "operator", { quantity: 1 });
});

test("S4: a node answers nobody who does not hold the internal token", async () => {
  for (const authorization of ["", "Bearer ", `Bearer ${await tokenOf("x", "operator")}`]) {
    for (const path of ["/rpc/map", "/rpc/commands", "/rpc/nothing"]) {
      const headers: Record<string, string> = authorization === "" ? {} : { authorization };
      const response = await fetch(`${cluster.nodes[0]?.url}${path}`, { headers });
      expect([path, response.status]).toEqual([path, 401]);
      await response.text();
    }
  }
});

test("F2 S2: a user who writes faster than the limit is told to slow down", async () => {
  const limited = await cluster.addRouter({ RATE_LIMIT_PER_USER: "5" });
  const answers = await Promise.all(
    Array.from({ length: 30 }, async () => cluster.client(limited).book(event.id, "hasty")),
  );
  const refused = answers.find((answer) => answer.status === 429);
  expect(refused).toBeDefined();
  if (refused !== undefined) expectProblem(refused, "rate_limited");
  expect(refused?.headers.get("retry-after")).toBe("1");
  expect((await cluster.client(limited).book(event.id, "patient")).status).toBe(201);
});
