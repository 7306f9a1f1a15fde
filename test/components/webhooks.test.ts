/** Webhooks and their deliveries, with a real database and real targets over HTTP; only what a target answers is made up. */
import { randomUUID } from "node:crypto";
import type { ServerResponse } from "node:http";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { Webhook as Verifier } from "standardwebhooks";
import { BookingStore } from "../../shard-node/store/booking-store.ts";
import type { Delivery, Taken, Taking } from "../../shard-node/store/webhooks.ts";
import {
  type DeliveriesParts,
  type DeliveryResult,
  HOST_TRIES_MAX,
  WebhookDeliveries,
} from "../../shard-node/webhooks/deliveries.ts";
import { WebhookSender } from "../../shard-node/webhooks/sender.ts";
import { Targets } from "../../shard-node/webhooks/targets.ts";
import type { Database } from "../../shared/database/database.ts";
import { CLOUD_EVENT_TYPES, type CloudEvent, type CloudEventType } from "../../shared/domain/cloud-events.ts";
import type { BookingId, EventId, ShardId, UserId } from "../../shared/domain/ids.ts";
import { createLog } from "../../shared/process/log.ts";
import type { WebhooksRequest } from "../../shared/wire/rpc.ts";
import { bookCommand, settleCommand } from "../support/commands.ts";
import {
  connectTo,
  createDatabase,
  openDatabase,
  storeEvent,
  type TestDatabase,
} from "../support/databases.ts";
import { eventually } from "../support/eventually.ts";
import { serve } from "../support/listen.ts";

const SHARD = "shard-0" as ShardId;
const OWNER = "the-owner" as UserId;
const SECRET = `whsec_${Buffer.alloc(32, 7).toString("base64")}`;
const TAKING: Taking = {
  gatherMax: 1_000,
  max: 100,
  failingMax: 100,
  hostMax: 100,
  underWay: new Map(),
  seconds: 60,
};

let created: TestDatabase;
let database: Database;
let store: BookingStore;

beforeAll(async () => {
  created = await createDatabase("shard");
  database = openDatabase(created.url, { connectionsMax: 4 });
  store = new BookingStore(database, () => Date.now());
});
beforeEach(async () => query("delete from webhooks"));
afterAll(async () => {
  await database.close();
  await created[Symbol.asyncDispose]();
});

test("J9: only the owner of an event and operators see to its webhooks, of which it has five at most", async () => {
  const event = await givenEvent();
  const url = "https://a.example/";
  const made = await create(event, url);
  for (const caller of [OWNER, null])
    expect(await list(event, caller)).toEqual([{ ...made, secret: undefined }]);
  const stranger = "somebody" as UserId;
  for (const action of ["create", "list", "delete"] as const)
    expect(await change(event, { action, id: made.id }, stranger)).toEqual({ outcome: "forbidden" });
  // Nobody owns an event of before 0.3: what a webhook hears is more than everybody may know.
  const old = await storeEvent(created.url, 5);
  expect(await change(old, { action: "create" })).toEqual({ outcome: "forbidden" });
  expect(await change(old, { action: "create" }, null)).toMatchObject({ outcome: "created" });

  // A router that lost the answer asks again.
  expect(await create(event, "https://other.example/", { id: made.id })).toEqual(made);
  // All at once: the constraint decides, and those that lose look for another place.
  const results = await Promise.all(
    Array.from({ length: 9 }, async () => change(event, { action: "create" })),
  );
  expect(results.map(({ outcome }) => outcome).toSorted()).toEqual([
    ...Array.from({ length: 4 }, () => "created"),
    ...Array.from({ length: 5 }, () => "too_many_webhooks"),
  ]);
  await query(
    "insert into webhooks (id, event_id, place, url, host, types, secret, after) select gen_random_uuid(), event_id, 6, url, host, types, secret, 0 from webhooks limit 1",
  ).then(
    () => expect.unreachable("the sixth was taken"),
    (error: unknown) => expect(String(error)).toContain("j9_few_webhooks"),
  );

  const { outcome } = await change(event, { action: "delete", id: made.id });
  expect(outcome).toBe("deleted");
  expect(await change(event, { action: "delete", id: made.id })).toEqual({ outcome: "deleted" });
  expect((await list(event)).map(({ id }) => id)).not.toContain(made.id);
  expect(
    await change(await givenEvent(), { action: "delete", id: (await list(event))[0]?.id ?? "" }),
  ).toEqual({ outcome: "deleted" });
  expect(await list(event)).toHaveLength(4);
  expect(await change(randomUUID() as string as EventId, { action: "list" })).toMatchObject({
    outcome: expect.stringMatching(/event_not_found|wrong_shard/),
  });
});

test("J10: a webhook is told each later change of its event and of the types it asked for, and nothing else", async () => {
  const [event, other] = [await givenEvent(), await givenEvent()];
  await book(event, "before");
  const all = await create(event, "https://all.example/");
  const some = await create(event, "https://some.example/", {
    types: ["onsale.booking.cancelled.v1", "onsale.event.changed.v1"],
  });
  const ann = await book(event, "ann");
  await book(other, "bob");
  await store.decide([settleCommand("cancel", ann, null)], []);
  await query(
    'select change_event($1, (select slot from events where id = $1), \'{"name": "Other"}\', null, null, $2)',
    [event, OWNER],
  );

  const taken = await takeAll();
  const typesFor = (id: string) => taken.filter(({ webhook }) => webhook.id === id).map(typeOf);
  expect(typesFor(all.id)).toEqual(["confirmed", "cancelled", "event"]);
  expect(typesFor(some.id)).toEqual(["cancelled", "event"]);
  expect(taken[0]?.change.bookings).toMatchObject([{ id: ann, userId: "ann", status: "confirmed" }]);
  expect(taken).toHaveLength(5);
  await store.settleDeliveries(taken.map((delivery) => ({ delivery, next: 0 })));
  expect(await takeAll()).toEqual([]);
  expect(await rowsOf("webhook_deliveries")).toBe(0);
  expect(await rowsOf("webhooks where waiting <> 0")).toBe(0);
});

test("J10: nothing is missed and nothing is written twice, however many nodes read the log", async () => {
  const event = await givenEvent(500);
  await create(event, "https://a.example/");
  const ids = new Set<string>();
  const take = async (): Promise<void> => {
    const { deliveries } = await store.takeDeliveries({ ...TAKING, gatherMax: 3 });
    for (const {
      change: { position, bookings },
    } of deliveries) {
      const id = `${position} ${bookings[0]?.id}`;
      expect(ids).not.toContain(id);
      ids.add(id);
    }
  };
  for (let round = 0; round < 10; round += 1)
    await Promise.all([
      ...Array.from({ length: 5 }, async (_, at) => book(event, `user-${round}-${at}`)),
      take(),
      take(),
    ]);
  await eventually("all are there", async () => {
    await take();
    return ids.size === 50;
  });
});

test("J10 J11: a target that fails is tried again under the same id until it takes the message", async () => {
  const event = await givenEvent();
  await using target = await givenTarget((got, response) =>
    response.writeHead(got.length < 3 ? 500 : 204).end(),
  );
  await create(event, target.url);
  const booking = await book(event, "ann");
  const node = given();

  await eventually("it was delivered", () => node.counted.includes("delivered"));

  expect(node.counted).toEqual(["failed", "failed", "delivered"]);
  expect(new Set(target.got.map(({ id }) => id)).size).toBe(1);
  expect(target.got[2]?.cloudEvent).toMatchObject({
    type: "onsale.booking.confirmed.v1",
    subject: booking,
    data: { id: booking, eventId: event, userId: "ann", status: "confirmed" },
  });
  await eventually("nothing is left", async () => (await rowsOf("webhook_deliveries")) === 0);
  await node.stop();
});

test("J11: a delivery that fails after the last pause is given up, said and counted", async () => {
  const event = await givenEvent();
  await using target = await givenTarget((_, response) => response.writeHead(503).end());
  await create(event, target.url);
  await book(event, "ann");
  const node = given();

  await eventually("it was given up", () => node.counted.includes("given_up"));

  expect(node.counted).toEqual(["failed", "failed", "given_up"]);
  await eventually("nothing is left", async () => (await rowsOf("webhook_deliveries")) === 0);
  expect(await rowsOf("webhooks where failing and waiting = 0")).toBe(1);
  await node.stop();
});

test("J10: what a node delivered and did not keep when it died is delivered again, under the same id", async () => {
  const event = await givenEvent();
  await using target = await givenTarget((_, response) => response.end());
  await create(event, target.url);
  await book(event, "ann");
  const dead = given({ settleDeliveries: async () => Promise.reject(new Error("it is dead")) });
  await eventually("it has delivered", () => target.got.length === 1);
  await dead.stop();
  expect(await takeAll()).toEqual([]);
  await query("update webhook_deliveries set due_at = now()");

  const next = given();
  await eventually("it is delivered again", () => target.got.length === 2);
  expect(new Set(target.got.map(({ id }) => id)).size).toBe(1);
  await next.stop();
});

test("J13: targets that hang hold up no other, and take a bounded part of the tries", async () => {
  const [event, bad] = [await givenEvent(500), await givenEvent(500)];
  const open = new Set<ServerResponse>();
  let most = 0;
  await using hanging = await givenTarget((_, response) => {
    most = Math.max(most, open.add(response).size);
    response.on("close", () => open.delete(response));
  });
  const hangUp = () => open.forEach((response) => response.destroy());
  await using good = await givenTarget((_, response) => response.end());
  // Several webhooks of one host share its places.
  for (const path of ["a", "b"]) await create(bad, hanging.url + path);
  await create(event, good.url);
  for (let at = 0; at < 20; at += 1) await book(bad, `user-${at}`);
  const node = given({}, 60_000);
  await eventually("all its places are taken", () => open.size === HOST_TRIES_MAX);
  for (let at = 0; at < 40; at += 1) await book(event, `user-${at}`);

  await eventually("the good one has all", () => good.got.length === 40);

  expect(node.counted.filter((result) => result !== "delivered")).toEqual([]);
  expect(most).toBe(HOST_TRIES_MAX);
  // What has failed once has one place.
  await eventually("both have failed", async () => {
    hangUp();
    return (await rowsOf("webhooks where failing")) === 2;
  });
  await eventually("nothing is under way that began before", () => {
    hangUp();
    return open.size === 0;
  });
  most = 0;
  await eventually("it is tried again", () => open.size > 0);
  const tries = hanging.got.length;
  await eventually("and again", () => {
    hangUp();
    return hanging.got.length >= tries + 3;
  });
  expect(most).toBe(1);
  await node.stop();
});

test("J13: tries are bounded, for those that fail apart; who was tried longest ago comes first", async () => {
  const events = [await givenEvent(), await givenEvent(), await givenEvent()];
  const hooks = [];
  for (const [at, event] of events.entries()) {
    hooks.push(await create(event, `https://host-${at}.example/`));
    for (const user of ["ann", "bob", "cid"]) await book(event, user);
  }
  await query("update webhooks set tried_at = now() where url like '%host-0%'");
  const take = async (more: Partial<Taking>) =>
    (await store.takeDeliveries({ ...TAKING, seconds: 0, ...more })).deliveries.map(
      ({ webhook }) => webhook.host,
    );
  expect((await take({ max: 6 })).toSorted()).toEqual([
    ...triple("host-1.example"),
    ...triple("host-2.example"),
  ]);
  expect(await take({ max: 0 })).toEqual([]);
  expect(
    (
      await take({
        hostMax: 2,
        underWay: new Map([
          ["host-1.example", 1],
          ["host-2.example", 2],
        ]),
      })
    ).toSorted(),
  ).toEqual(["host-0.example", "host-0.example", "host-1.example"]);
  await query("update webhooks set failing = true where url like '%host-1%' or url like '%host-2%'");
  expect((await take({ max: 0 })).toSorted()).toEqual(["host-1.example", "host-2.example"]);
  expect(await take({ max: 0, failingMax: 1 })).toHaveLength(1);
  expect(await take({ max: 0, underWay: new Map([["host-1.example", 1]]) })).toEqual(["host-2.example"]);
});

test("J13: a backlog is bounded: its oldest deliveries are given up, said and counted, and others' are not", async () => {
  const [event, other] = [await givenEvent(), await givenEvent()];
  const { id } = await create(event, "https://a.example/");
  await create(other, "https://b.example/");
  const bookings = [await book(event, "ann"), await book(event, "bob"), await book(event, "cid")];
  await book(other, "ann");
  await store.takeDeliveries({ ...TAKING, max: 0 });
  // As if it had so many.
  await query("update webhooks set waiting = 99999 where id = $1", [id]);
  bookings.push(await book(event, "dan"), await book(event, "eve"));

  const { gathered } = await store.takeDeliveries({ ...TAKING, max: 0 });

  expect(gathered).toEqual({ count: 2, skipped: false, dropped: [{ id, eventId: event, count: 1 }] });
  const left = await query<{ subject: string }>(
    "select subject from webhook_deliveries where webhook_id = $1 order by position",
    [id],
  );
  expect(left.map(({ subject }) => subject)).toEqual(bookings.slice(1));
  expect(await rowsOf("webhook_deliveries")).toBe(5);
  const node = given({
    takeDeliveries: async () => ({ deliveries: [], waiting: 7, gathered }) satisfies Taken,
  });
  await eventually("it was counted", () => node.counted.includes("dropped"));
  expect(node.deliveries.waiting).toBe(7);
  await node.stop();
});

test("J13: without webhooks, and while another node is at work, nothing is done", async () => {
  const nothing = { waiting: 0, gathered: null, deliveries: [] };
  expect(await store.takeDeliveries(TAKING)).toEqual(nothing);
  const event = await givenEvent();
  await create(event, "https://a.example/");
  await book(event, "ann");
  using other = connectTo(created.url);
  await other.run("begin");
  await other.run("select from webhooks_place for update");
  expect(await store.takeDeliveries(TAKING)).toEqual(nothing);
  await other.run("rollback");
  expect(await store.takeDeliveries(TAKING)).toMatchObject({ waiting: 1, gathered: { count: 1 } });
});

test("J10: changes that were dropped before they were read are skipped, and that is said", async () => {
  const event = await givenEvent();
  await create(event, "https://a.example/");
  await book(event, "ann");
  await query("update changes_dropped set truncated = (select max(position) from changes)");
  await query("delete from changes");
  await book(event, "bob");

  const { gathered } = await store.takeDeliveries({ ...TAKING, max: 0 });

  expect(gathered).toMatchObject({ skipped: true });
  const [{ waiting } = { waiting: 0 }] = await query<{ waiting: number }>("select waiting from webhooks");
  await book(event, "cid");
  expect((await store.takeDeliveries({ ...TAKING, max: 0 })).gathered).toMatchObject({ skipped: false });
  expect(await rowsOf("webhook_deliveries")).toBe(waiting + 1);
});

test("J10: after a failover what was committed and not read yet is still told", async () => {
  const event = await givenEvent();
  await create(event, "https://a.example/");
  const before = await book(event, "ann");
  await query("update changes_dropped set timeline = timeline - 1");

  const taken = await takeAll();
  const after = await book(event, "bob");
  expect([...taken, ...(await takeAll())].map(({ change: { bookings } }) => bookings[0]?.id)).toEqual([
    before,
    after,
  ]);
});

/** A node's deliveries, with two short pauses. */
function given(other: Partial<DeliveriesParts["store"]> = {}, tryMs?: number) {
  const counted: DeliveryResult[] = [];
  const deliveries = new WebhookDeliveries({
    shard: SHARD,
    store: {
      takeDeliveries: async (taking) => store.takeDeliveries(taking),
      settleDeliveries: async (settled) => store.settleDeliveries(settled),
      ...other,
    },
    sender: new WebhookSender(new Targets("any"), HOST_TRIES_MAX, tryMs),
    counted: (result) => counted.push(result),
    skipped: () => undefined,
    databaseUp: () => true,
    log: createLog("test", "silent"),
    scheduleSeconds: [0.001, 0.001],
  });
  deliveries.start();
  return { deliveries, counted, stop: async () => deliveries.stop() };
}

interface Got {
  readonly id: string;
  readonly cloudEvent: CloudEvent;
}

/** Verifies what it gets. */
async function givenTarget(answer: (got: readonly Got[], response: ServerResponse) => unknown) {
  const got: Got[] = [];
  const server = await serve(async (request, response) => {
    let body = "";
    for await (const piece of request.setEncoding("utf8")) body += piece;
    const headers = request.headers as Record<string, string>;
    got.push({
      id: headers["webhook-id"] ?? "",
      cloudEvent: new Verifier(SECRET).verify(body, headers) as CloudEvent,
    });
    answer(got, response);
  });
  return { got, url: `${server.url}/`, [Symbol.asyncDispose]: async () => server[Symbol.asyncDispose]() };
}

async function givenEvent(tickets = 50): Promise<EventId> {
  const id = await storeEvent(created.url, tickets);
  await query("update events set owner_id = $2 where id = $1", [id, OWNER]);
  return id;
}

async function book(event: EventId, user: string): Promise<BookingId> {
  const command = bookCommand(event, user);
  const { decisions } = await store.decide([command], store.freshIdsFor([command]));
  const [result] = decisions;
  if (result === undefined || !("booking" in result)) throw new Error(JSON.stringify(result));
  return result.booking.id;
}

interface Asked {
  readonly action: WebhooksRequest["action"];
  readonly id?: string;
  readonly types?: CloudEventType[];
}

async function change(
  eventId: EventId,
  asked: Asked,
  caller: UserId | null = OWNER,
  url = "https://a.example/",
) {
  const { action, id = randomUUID(), types = [...CLOUD_EVENT_TYPES] } = asked;
  return store.changeWebhooks({ action, eventId, caller, id, url, types, secret: SECRET }, new URL(url).host);
}

async function create(event: EventId, url: string, more: Omit<Asked, "action"> = {}) {
  const result = await change(event, { action: "create", ...more }, OWNER, url);
  if (result.outcome !== "created") throw new Error(result.outcome);
  return result.webhook;
}

async function list(event: EventId, caller: UserId | null = OWNER) {
  const result = await change(event, { action: "list" }, caller);
  if (result.outcome !== "listed") throw new Error(result.outcome);
  return result.webhooks;
}

async function takeAll(): Promise<readonly Delivery[]> {
  return (await store.takeDeliveries(TAKING)).deliveries;
}

function typeOf({ change: { event, bookings } }: Delivery): string | undefined {
  return event === null ? bookings[0]?.status : "event";
}

const triple = (host: string) => [host, host, host];

async function rowsOf(table: string): Promise<number> {
  const [row] = await query<{ count: number }>(`select count(*)::int as count from ${table}`);
  return row?.count ?? 0;
}

async function query<Row extends object>(text: string, values: readonly unknown[] = []): Promise<Row[]> {
  return database.query<Row>({ name: text.slice(0, 60), text }, values);
}
