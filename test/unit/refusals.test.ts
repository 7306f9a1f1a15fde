/** What a router's refusals say, and what they cost. */
import { createHmac } from "node:crypto";
import { once } from "node:events";
import { connect } from "node:net";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { EventCache } from "../../router/cache/event-cache.ts";
import type { PageCache } from "../../router/cache/page-cache.ts";
import { TOKEN_FAULTS, TokenVerifier } from "../../router/callers/tokens.ts";
import { createRouterServer } from "../../router/http/server.ts";
import { Receipts } from "../../router/queue/receipts.ts";
import { createRouterMetrics } from "../../router/metrics.ts";
import type { Cluster } from "../../router/shards/cluster.ts";
import type { Command } from "../../shared/domain/commands.ts";
import { systemClock } from "../../shared/process/clock.ts";
import { createLog } from "../../shared/process/log.ts";
import { createRegistry } from "../../shared/watch/metrics.ts";
import { listen } from "../support/listen.ts";
import { bookedBy, type LoneRouter, startLoneRouter } from "../support/lone-router.ts";
import { SECRET, tokenOf } from "../support/running-cluster.ts";
import { SNAPSHOT_ID } from "../support/snapshots.ts";

const ORIGIN = "https://shop.example";
let router: LoneRouter;
beforeAll(async () => (router = await startLoneRouter({ CORS_ORIGINS: ORIGIN })));
afterAll(async () => router[Symbol.asyncDispose]());

const encoded = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url");
const now = () => Math.floor(Date.now() / 1000);
function tokenWith(claims: object, header: object = { alg: "HS256" }, secret = SECRET): string {
  const signed = `${encoded(header)}.${encoded({ sub: "ann", exp: now() + 600, ...claims })}`;
  return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
}

test("I5: a 401 says why, in its detail and in a counter, and that the token is invalid where there was one", async () => {
  const missing = ["", "Basic dTpw", "Bearer", "Token x"];
  const faults = {
    malformed: ["x", "x.y", "x.y.z.w", "..", "x y.z", "<x>", "a=b"],
    header: [tokenWith({}, { alg: "RS256" }), tokenWith({}, { alg: "HS256", crit: ["x"] })],
    signature: [tokenWith({}, {}, "another-secret-of-32-characters!!"), "x.y.z", `${tokenWith({})}x`],
    expired: [tokenWith({ exp: now() - 1 })],
    not_yet_valid: [tokenWith({ nbf: now() + 60 }), tokenWith({ iat: now() + 60 })],
    claims: [tokenWith({ exp: undefined }), tokenWith({ role: "king" }), tokenWith({ exp: 1e12 })],
    sub: [tokenWith({ sub: "" }), tokenWith({ sub: undefined })],
  };
  const details = new Set<string>();
  const expectRefusal = async (reason: string, authorization: string, challenge: string) => {
    const before = await router.metric("onsale_unauthenticated_total");
    const headers: Record<string, string> = authorization === "" ? {} : { authorization };
    const answer = await router.client.send("POST", "/v1/events", { headers, body: {} });
    const after = await router.metric("onsale_unauthenticated_total");
    expect([authorization, answer.status, answer.body.code]).toEqual([authorization, 401, "unauthenticated"]);
    expect(answer.headers.get("www-authenticate")).toBe(challenge);
    const changed = Object.keys(after).filter((labels) => after[labels] !== before[labels]);
    expect([authorization, changed]).toEqual([authorization, [`reason="${reason}"`]]);
    details.add(String(answer.body["detail"]));
    expect(Object.keys(after).toSorted()).toEqual(
      ["missing", ...TOKEN_FAULTS].map((each) => `reason="${each}"`).toSorted(),
    );
  };
  for (const authorization of missing) await expectRefusal("missing", authorization, 'Bearer realm="onsale"');
  for (const [reason, tokens] of Object.entries(faults))
    for (const token of tokens)
      await expectRefusal(reason, `Bearer ${token}`, 'Bearer realm="onsale", error="invalid_token"');
  expect(details.size).toBe(1 + Object.keys(faults).length);
});

test("I5: a request whose token is refused costs less than a booking that a shard answers at once", async () => {
  const server = createRouterServer({
    cluster: { command: async (command: Command) => bookedBy(command) } as unknown as Cluster,
    cache: { isSoldOut: () => false } as unknown as EventCache,
    pages: {} as PageCache,
    verifier: new TokenVerifier({ keys: { secret: SECRET } }, systemClock),
    metrics: createRouterMetrics(createRegistry()),
    queue: undefined,
    readSide: undefined,
    receipts: new Receipts([SECRET]),
    draining: new AbortController().signal,
    clock: systemClock,
    log: createLog("test", "silent"),
    tracing: undefined,
    commandDeadlineMs: 5_000,
    ifMatchRequired: false,
    documentation: true,
    corsOrigins: new Set(),
    connectionsMax: 10,
    writeLimits: { admit: () => undefined, close: () => undefined },
    clientAddress: () => undefined,
  });
  await using listening = await listen(server);
  const [COUNT, TOGETHER] = [400, 20];
  /** Processor time of a request, on one connection, with what the client takes. */
  const timeOf = async (authorization: string, status: number): Promise<number> => {
    const socket = connect(listening.port, "127.0.0.1");
    const request = `POST /v1/events/${SNAPSHOT_ID}/bookings HTTP/1.1\r\nhost: x\r\n${authorization}content-type: application/json\r\ncontent-length: 14\r\n\r\n{"quantity":1}`;
    const before = process.cpuUsage();
    for (let sent = 0; sent < COUNT; sent += TOGETHER) {
      socket.write(request.repeat(TOGETHER));
      for (let answers = 0; answers < TOGETHER;) {
        const [piece] = (await once(socket, "data")) as [Buffer];
        answers += piece.toString("latin1").split(`HTTP/1.1 ${status}`).length - 1;
      }
    }
    const { user, system } = process.cpuUsage(before);
    socket.destroy();
    return (user + system) / COUNT;
  };
  const kinds = {
    booked: [`Bearer ${tokenWith({})}`, 201],
    none: ["", 401],
    malformed: [`Bearer ${tokenWith({})}.x`, 401],
    forged: [`Bearer ${tokenWith({}, { alg: "HS256" }, "another-secret-of-32-characters!!")}`, 401],
    expired: [`Bearer ${tokenWith({ exp: now() - 1 })}`, 401],
    "another role": [`Bearer ${tokenWith({ role: "organizer" })}`, 403],
  } as const;
  const least: Record<string, number> = {};
  for (let round = 0; round < 5; round += 1)
    for (const [kind, [token, status]] of Object.entries(kinds)) {
      const time = await timeOf(token === "" ? "" : `authorization: ${token}\r\n`, status);
      least[kind] = Math.min(least[kind] ?? Infinity, time);
    }
  console.log("µs of processor time a request:", least);
  const { booked = 0, ...refused } = least;
  for (const [kind, time] of Object.entries(refused)) expect([kind, time < booked]).toEqual([kind, true]);
});

/** Nothing else in an answer has it. */
const MARK = "\u00b5";
const LONG = MARK.repeat(4_000);

test("I3: however much a client sends, a refusal of any kind repeats at most 200 characters of it", async () => {
  const buyer = `Bearer ${await tokenOf("ann")}`;
  const organizer = `Bearer ${await tokenOf("org", "organizer")}`;
  const json = "application/json";
  const latin = (text: string) => Buffer.from(text).toString("latin1");
  const bookings = `/v1/events/${SNAPSHOT_ID}/bookings`;
  const event = { name: "x", startsAt: "2030-01-01T00:00:00Z", totalTickets: 1 };
  const asked: [
    status: number,
    method: string,
    path: string,
    headers: Record<string, string>,
    body?: string,
  ][] = [];
  const percent = encodeURIComponent(LONG.slice(0, 2_000));
  const plain = "q".repeat(12_000);
  // Addresses and queries.
  asked.push([404, "GET", `/${plain}`, {}], [404, "GET", `/v1/${percent}`, {}]);
  asked.push([405, "PUT", `/v1/events/${plain}`, {}], [400, "GET", `/v1/events/${plain}`, {}]);
  asked.push([400, "GET", `/v1/events?${plain}=1`, {}], [400, "GET", `/v1/events?${percent}`, {}]);
  asked.push([400, "GET", `/v1/events?limit=${plain}`, {}], [400, "GET", `/v1/events?cursor=${percent}`, {}]);
  asked.push([400, "GET", `/v1/events?${"q=1&".repeat(3_000)}`, {}]);
  asked.push([400, "GET", `/v1/events?${Array.from({ length: 2_000 }, (_, at) => `q${at}`).join("&")}`, {}]);
  // Headers.
  for (const authorization of [plain, `Bearer ${plain}`, `Bearer ${plain}.q.q`, `Basic ${latin(LONG)}`])
    asked.push([401, "POST", bookings, { authorization }, "{}"]);
  asked.push([
    403,
    "POST",
    "/v1/events",
    { authorization: `Bearer ${tokenWith({ sub: "q", q: plain.slice(0, 9_000) })}` },
  ]);
  asked.push([
    401,
    "POST",
    bookings,
    { authorization: `Bearer ${tokenWith({ role: plain.slice(0, 9_000) })}` },
  ]);
  const booking = '{"quantity":1}';
  asked.push([
    400,
    "POST",
    bookings,
    { authorization: buyer, "content-type": json, "idempotency-key": plain },
    booking,
  ]);
  asked.push([415, "POST", bookings, { authorization: buyer, "content-type": plain }, booking]);
  asked.push([
    415,
    "POST",
    bookings,
    { authorization: buyer, "content-type": `${json}; charset=${plain}` },
    booking,
  ]);
  asked.push([
    415,
    "POST",
    bookings,
    { authorization: buyer, "content-type": json, "content-encoding": plain },
    booking,
  ]);
  for (const ifMatch of [plain, `"${plain}`, latin(LONG)])
    asked.push([
      400,
      "PATCH",
      `/v1/events/${SNAPSHOT_ID}`,
      { authorization: organizer, "content-type": json, "if-match": ifMatch },
      "{}",
    ]);
  for (const name of [
    "x-request-id",
    "traceparent",
    "tracestate",
    "origin",
    "accept",
    "if-none-match",
    "expect",
  ])
    asked.push([404, "GET", "/v1/nothing", { [name]: plain }]);
  // Bodies.
  const wrong: [string, string][] = [
    ...[LONG, `"${LONG}`, `{"${LONG}`, `{"quantity":${LONG}`, `[${LONG}]`].map((body): [string, string] => [
      bookings,
      body,
    ]),
    ...[`"${LONG}"`, `{"${LONG}":1}`, `{"quantity":"${LONG}"}`, `{"quantity":{"${LONG}":1}}`].map(
      (body): [string, string] => [bookings, body],
    ),
    [
      bookings,
      JSON.stringify(Object.fromEntries(Array.from({ length: 1_000 }, (_, at) => [`${MARK}${at}`, at]))),
    ],
    [bookings, `{"quantity":1,"${LONG}":1,"${LONG}":2}`],
    ...["name", "venue", "startsAt", "salesStartAt", "salesEndAt", "totalTickets", "maxPerUser", LONG].map(
      (field): [string, string] => [
        "/v1/events",
        JSON.stringify({ ...event, [field]: LONG.slice(0, 3_000) }),
      ],
    ),
    [
      "/v1/events",
      JSON.stringify(
        Object.fromEntries(
          Object.keys(event).map((field) => [field, { [LONG.slice(0, 2_000)]: LONG.slice(0, 500) }]),
        ),
      ),
    ],
  ];
  for (const [path, body] of wrong)
    asked.push([
      400,
      "POST",
      path,
      { authorization: path === bookings ? buyer : organizer, "content-type": json },
      body,
    ]);
  asked.push([413, "POST", bookings, { authorization: buyer, "content-type": json }, LONG.repeat(5)]);

  const repeated: number[] = [];
  const expectLittle = (what: unknown, answer: string) => {
    const count = answer.split(MARK).length - 1 + (answer.match(/q+/g) ?? []).join("").length;
    const longest = Math.max(
      0,
      ...(answer.match(/(?:q|\u00b5|\u00c2|%C2%B5|\\u00b5)+/gi) ?? []).map((run) => run.length),
    );
    repeated.push(count, longest);
    expect([what, Math.max(count, longest) <= 200]).toEqual([what, true]);
  };
  for (const [status, method, path, headers, body = ""] of asked) {
    const framed = body === "" ? "" : `content-length: ${Buffer.byteLength(body)}\r\n`;
    const head = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
    const start = Buffer.from(
      `${method} ${path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n${head.join("")}${framed}\r\n`,
      "latin1",
    );
    const answer = await router.raw(Buffer.concat([start, Buffer.from(body)]));
    const what = [method, path.slice(0, 60), Object.keys(headers).join(), body.slice(0, 30)];
    expect([what, answer.slice(0, 12)]).toEqual([what, `HTTP/1.1 ${status}`]);
    expectLittle(what, answer);
  }
  // What never becomes a request.
  for (const bytes of [
    plain,
    `${plain}\r\n\r\n`,
    `GET /${plain.repeat(2)} HTTP/1.1\r\n\r\n`,
    `GET / HTTP/1.1\r\n${plain}\r\n\r\n`,
    `GET http://${plain}:${plain}/ HTTP/1.1\r\nhost: ${plain}\r\nconnection: close\r\n\r\n`,
    `GET / HTTP/1.1\r\nhost: ${latin(LONG)}<>\r\nconnection: close\r\n\r\n`,
  ])
    expectLittle(bytes.slice(0, 40), await router.raw(bytes));
  // Some of it is repeated, or this test would prove nothing.
  expect(Math.max(...repeated)).toBeGreaterThan(50);
}, 30_000);
