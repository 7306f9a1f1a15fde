/**
 * What routers and nodes make of what the other says: a page of a proxy, an answer with holes, another version of the RPC.
 * The nodes are fakes and the routers real, and once the other way round.
 */
import { expect, test } from "vitest";
import { chooseFreePort } from "../../deploy/embedded/ports.ts";
import { routerConfig } from "../../router/config.ts";
import { type RunningRouter, startRouter } from "../../router/router.ts";
import { readConfig } from "../../shared/process/config.ts";
import { newEventId } from "../../shared/domain/ids.ts";
import type { Booking } from "../../shared/domain/bookings.ts";
import type { Event } from "../../shared/domain/events.ts";
import { RPC, RPC_VERSION, RPC_VERSION_HEADER } from "../../shared/wire/rpc.ts";
import { Client, INTERNAL_TOKEN, RPC_HEADERS, SECRET, startTestCluster } from "../support/cluster.ts";
import { bookCommand } from "../support/commands.ts";
import { eventually } from "../support/eventually.ts";
import { type FakeNode, type Said, startFakeNode } from "../support/fake-node.ts";
import { start } from "../support/run.ts";

const NOW = "2030-01-01T00:00:00.000Z";
const event: Event = {
  id: newEventId(Date.now()),
  name: "Concert",
  venue: null,
  startsAt: NOW,
  salesStartAt: null,
  salesEndAt: null,
  status: "on_sale",
  totalTickets: 10,
  availableTickets: 9,
  maxPerUser: 2,
  version: 2,
  createdAt: NOW,
  updatedAt: NOW,
};
const booking: Booking = {
  id: newEventId(Date.now()) as string as Booking["id"],
  eventId: event.id,
  userId: "ada" as Booking["userId"],
  quantity: 1,
  status: "confirmed",
  expiresAt: null,
  createdAt: NOW,
  updatedAt: NOW,
};
const booked = { outcome: "booked", booking };
const found = { outcome: "found", value: { event, nextHoldExpiresAt: null } };
const HTML = "<html><body>502 Bad Gateway</body></html>";

function json(body: unknown, version: string | undefined = RPC_VERSION): Said {
  return { body: JSON.stringify(body), version };
}
const commands = (results: unknown, snapshots: unknown = []) => json({ results, snapshots, mapVersion: 1 });

test("F9: a whole answer is the client's", async () => {
  await using node = await startFakeNode(() => commands([booked]));
  await using router = await startRouterTo(node);

  const answer = await router.client.book(event.id, "ada");

  expect([answer.status, answer.body.id]).toEqual([201, booking.id]);
  expect(node.calls.map(({ headers }) => headers[RPC_VERSION_HEADER])).toEqual([RPC_VERSION]);
});

test.for<[string, Said]>([
  ["a page of a proxy", { body: HTML }],
  ["a page of a proxy that passes on the headers", { body: HTML, version: RPC_VERSION }],
  ["no JSON to its end", { body: '{"results":[', version: RPC_VERSION }],
  ["something else", json("booked")],
  ["no results", json({ snapshots: [], mapVersion: 1 })],
  ["a result too few", commands([])],
  ["a result too many", commands([booked, booked])],
  ["a result that is none", commands([null])],
  ["an outcome that nobody knows", commands([{ outcome: "given_away" }])],
  ["a yes without its booking", commands([{ outcome: "booked", booking: null }])],
  ["a booking without an id", commands([{ outcome: "booked", booking: { ...booking, id: undefined } }])],
  [
    "a booking of a status that nobody knows",
    commands([{ ...booked, booking: { ...booking, status: "lost" } }]),
  ],
  ["a quantity in words", commands([{ ...booked, booking: { ...booking, quantity: "one" } }])],
  ["a no without its number", commands([{ outcome: "insufficient_tickets" }])],
  ["no version of the map", json({ results: [booked], snapshots: [] })],
  ["an answer of an RPC before versions", { body: commands([booked]).body }],
  ["an answer of another RPC", json({ results: [booked], snapshots: [], mapVersion: 1 }, "7")],
])("F1 F9: after %s nobody knows whether the booking was made", async ([, said]) => {
  await using node = await startFakeNode(() => said);
  await using router = await startRouterTo(node);

  const answer = await router.client.book(event.id, "ada", 1, { "idempotency-key": "k" });

  expect([answer.status, answer.body.code]).toEqual([503, "outcome_unknown"]);
  // Once more, under the same key.
  expect(node.calls.map(({ body }) => (JSON.parse(body) as { commands: unknown[] }).commands)).toMatchObject([
    [{ key: "k" }],
    [{ key: "k" }],
  ]);
});

test.for<[string, Said]>([
  ["a page of a proxy", { body: HTML }],
  ["a result too few", json({ results: [], mapVersion: 1 })],
  ["an event without a version", json({ results: [withoutVersion()], mapVersion: 1 })],
  ["an answer of another RPC", json({ results: [found], mapVersion: 1 }, "7")],
])("F9: %s is no answer to a read, and another node is asked", async ([, said]) => {
  await using good = await startFakeNode(() => json({ results: [found], mapVersion: 1 }));
  await using bad = await startFakeNode(() => said, [good]);
  await using router = await startRouterTo(bad);

  const answer = await router.client.send<Event>("GET", `/v1/events/${event.id}`);

  expect([answer.status, answer.body]).toEqual([200, event]);
  expect([bad.calls.length, good.calls.length]).toEqual([1, 1]);
});

test("F9: a list, and an event that was saved, are no garbage either", async () => {
  await using node = await startFakeNode((path) =>
    json(path === RPC.list ? { events: [{ id: event.id }] } : { outcome: "saved", snapshot: { event: {} } }),
  );
  await using router = await startRouterTo(node);

  const list = await router.client.send("GET", "/v1/events");
  const body = { name: "x", startsAt: NOW, totalTickets: 1 };
  const saved = await router.client.send("POST", "/v1/events", { as: "o", role: "organizer", body });

  expect([list.status, list.body.code]).toEqual([503, "shard_unavailable"]);
  expect([saved.status, saved.body.code]).toEqual([503, "outcome_unknown"]);
});

test("F9: a snapshot that is none is left out, and the booking is the client's all the same", async () => {
  const read = json({ results: [found], mapVersion: 1 });
  await using node = await startFakeNode((path) =>
    path === RPC.read ? read : commands([booked], [{ event: { id: event.id, version: 99 } }, null, "x"]),
  );
  await using router = await startRouterTo(node);

  const answer = await router.client.book(event.id, "ada");

  expect([answer.status, answer.body.id]).toEqual([201, booking.id]);
  expect(await router.client.readEvent(event.id)).toEqual(event);
});

test("R5: a node that speaks another version has done nothing: another node is asked, and the log says so once", async () => {
  await using good = await startFakeNode(() => commands([booked]));
  const refusal = { error: "this node speaks RPC 3; the router spoke 2" };
  await using newer = await startFakeNode(() => ({ ...json(refusal, "3"), status: 400 }), [good]);
  const [port, admin] = [await chooseFreePort(new Set()), await chooseFreePort(new Set())];
  await using router = start("router/main.ts", {
    NODE_URLS: newer.url,
    INTERNAL_TOKEN,
    AUTH_JWT_SECRET: SECRET,
    HOST: "127.0.0.1",
    PORT: String(port),
    ADMIN_PORT: String(admin),
  });
  const ready = async () =>
    fetch(`http://127.0.0.1:${admin}/readyz`).then(
      ({ ok }) => ok,
      () => false,
    );
  await eventually("the router knows the map", ready);
  const client = new Client(`http://127.0.0.1:${port}`);

  const answers = [
    await client.book(event.id, "ada", 1, { "idempotency-key": "a" }),
    await client.book(event.id, "ada", 1, { "idempotency-key": "b" }),
  ];
  router.stop("SIGTERM");

  expect((await router.exited).stdout.match(/this router speaks RPC 2; the node spoke 3/g)).toHaveLength(1);
  expect(answers.map(({ status }) => status)).toEqual([201, 201]);
  expect([newer.calls.length, good.calls.length]).toEqual([2, 2]);
});

test("R5: when all nodes speak another version, the shard is unavailable, and nothing is in doubt", async () => {
  await using node = await startFakeNode(() => ({ ...json({ error: "no" }, "3"), status: 400 }));
  await using router = await startRouterTo(node);

  const answer = await router.client.book(event.id, "ada");

  expect([answer.status, answer.body.code]).toEqual([503, "shard_unavailable"]);
});

test("R5: a node refuses by name a router of another version, and one that names none, and does nothing", async () => {
  await using cluster = await startTestCluster({ shards: 1 });
  const client = cluster.client();
  const { id } = await client.createEvent();
  const command = bookCommand(id, "ada");
  const { [RPC_VERSION_HEADER]: _, ...unversioned } = RPC_HEADERS;
  const body = JSON.stringify({ sentAt: 0, commands: [command] });
  for (const [headers, spoken] of [
    [{ ...RPC_HEADERS, [RPC_VERSION_HEADER]: "3" }, "spoke 3"],
    [{ ...RPC_HEADERS, [RPC_VERSION_HEADER]: "" }, "spoke "],
    [unversioned, "named no version"],
  ] as const) {
    const answer = await fetch(`${cluster.nodes[0]?.url}${RPC.commands}`, { method: "POST", headers, body });
    expect([answer.status, answer.headers.get(RPC_VERSION_HEADER), await answer.json()]).toEqual([
      400,
      RPC_VERSION,
      { error: `this node speaks RPC 2; the router ${spoken}` },
    ]);
  }
  expect((await client.readEvent(id)).availableTickets).toBe(100);
});

function withoutVersion(): unknown {
  return { outcome: "found", value: { event: { ...event, version: undefined }, nextHoldExpiresAt: null } };
}

async function startRouterTo(node: FakeNode): Promise<{ client: Client } & AsyncDisposable> {
  const settings = {
    NODE_URLS: node.url,
    INTERNAL_TOKEN,
    AUTH_JWT_SECRET: SECRET,
    PORT: "0",
    ADMIN_PORT: "0",
    LOG_LEVEL: process.env["TEST_LOG_LEVEL"] ?? "silent",
  };
  const router: RunningRouter = await startRouter(readConfig(routerConfig, settings));
  await eventually("the router knows the map", async () => (await fetch(`${router.adminUrl}/readyz`)).ok);
  return { client: new Client(router.url), [Symbol.asyncDispose]: async () => router.close() };
}
