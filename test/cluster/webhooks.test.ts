/** Webhooks through the API: who may have them, and what a target gets. */
import { Webhook as Verifier } from "standardwebhooks";
import { afterAll, beforeAll, expect, test } from "vitest";
import { CLOUD_EVENT_TYPES, type CloudEvent } from "../../shared/domain/cloud-events.ts";
import { newEventId } from "../../shared/domain/ids.ts";
import type { Role } from "../../router/callers/tokens.ts";
import { ORGANIZER } from "../support/commands.ts";
import { eventually } from "../support/eventually.ts";
import { serve } from "../support/listen.ts";
import { type Client, PATIENT, startTestCluster, type TestCluster } from "../support/running-cluster.ts";

interface NewWebhook {
  readonly id: string;
  readonly url: string;
  readonly types: readonly string[];
  readonly secret: string;
}

let cluster: TestCluster;
let client: Client;

beforeAll(async () => {
  const env = { ...PATIENT, ONSALE_ENV: "development", WEBHOOK_TARGETS: "any" };
  cluster = await startTestCluster({ shards: 1, env });
  const [shard] = cluster.shards;
  if (shard !== undefined) await cluster.addNode(shard);
  client = cluster.client();
});
afterAll(async () => cluster[Symbol.asyncDispose]());

test("J9 J10: an organizer's target gets what the API answers, signed with the secret that was told once", async () => {
  const got: { headers: Record<string, string>; body: string }[] = [];
  await using target = await serve(async (request, response) => {
    let body = "";
    for await (const piece of request.setEncoding("utf8")) body += piece;
    got.push({ headers: request.headers as Record<string, string>, body });
    response.writeHead(204).end();
  });
  const { id } = await client.createEvent({ totalTickets: 7 });
  const url = `${target.url}/hook?for=${id}`;
  const added = await ask<NewWebhook>("POST", id, { body: { url } });
  const { secret, ...webhook } = added.body;
  expect([added.status, added.headers.get("cache-control")]).toEqual([201, "private, no-store"]);
  expect(secret).toMatch(/^whsec_[A-Za-z0-9+/]{43}=$/);
  expect(webhook).toEqual({ id: webhook.id, url, types: CLOUD_EVENT_TYPES });
  expect((await ask("GET", id)).body).toEqual({ items: [webhook] });

  const booked = (await client.book(id, "ada", 2)).body;
  const cancelled = (await client.cancel(booked.id, "ada")).body;

  await eventually("it is told both", () => got.length === 2);
  const told = got.map(({ headers, body }) => {
    const cloudEvent = new Verifier(secret).verify(body, headers) as CloudEvent;
    expect(headers["webhook-id"]).toBe(cloudEvent.id.replaceAll(".", "_"));
    return cloudEvent;
  });
  const byType = told.toSorted((a, b) => (a.type < b.type ? -1 : 1));
  expect(byType).toMatchObject([
    { type: "onsale.booking.cancelled.v1", subject: booked.id, data: cancelled, source: `/v1/events/${id}` },
    { type: "onsale.booking.confirmed.v1", subject: booked.id, data: booked, source: `/v1/events/${id}` },
  ]);

  const removed = await ask("DELETE", id, { webhook: webhook.id });
  expect([removed.status, removed.body]).toEqual([204, undefined]);
  expect((await ask("DELETE", id, { webhook: webhook.id })).status).toBe(204);
  expect((await ask("GET", id)).body).toEqual({ items: [] });
  // One that comes after it shows that it was told nothing more.
  await client.book(id, "bob");
  await ask("POST", id, { body: { url: `${target.url}/next` } });
  const last = (await client.book(id, "cid")).body;
  await eventually("the next is told", () => got.some(({ body }) => body.includes(last.id)));
  expect(got).toHaveLength(3);
  await eventually("both nodes have counted", async () => (await deliveredBy(cluster)) === 3);
});

test("J9: only the owner of an event and operators see to its webhooks", async () => {
  const { id } = await client.createEvent();
  const url = "http://127.0.0.1:1/";
  const body = { url, types: ["onsale.booking.held.v1", "onsale.booking.held.v1"] };
  const added = await ask<NewWebhook>("POST", id, { as: "the-operator", role: "operator", body });
  expect([added.status, added.body.types]).toEqual([201, ["onsale.booking.held.v1"]]);
  for (const as of ["the-operator", ORGANIZER])
    expect((await ask("GET", id, { as, role: as === ORGANIZER ? "organizer" : "operator" })).body).toEqual({
      items: [{ id: added.body.id, url, types: added.body.types }],
    });
  for (const role of ["organizer", "buyer"] as const)
    for (const [method, more] of Object.entries({
      POST: { body },
      GET: {},
      DELETE: { webhook: added.body.id },
    })) {
      const answer = await ask(method, id, { as: "somebody", role, ...more });
      expect([method, answer.status, answer.body.code]).toEqual([method, 403, "forbidden"]);
    }
  // No name is looked up for them either: what is wrong with the target is not told.
  const badTarget = {
    as: "somebody",
    role: "organizer",
    body: { url: "https://ada:secret@shop.example/" },
  } as const;
  expect((await ask("POST", id, badTarget)).status).toBe(403);
  const nowhere = newEventId(Date.now());
  for (const [method, more] of Object.entries({
    POST: { body },
    GET: {},
    DELETE: { webhook: added.body.id },
  })) {
    const answer = await ask(method, nowhere, more);
    expect([method, answer.status, answer.body.code]).toEqual([method, 404, "event_not_found"]);
  }
  for (let more = 1; more < 5; more += 1) expect((await ask("POST", id, { body })).status).toBe(201);
  const sixth = await ask("POST", id, { body });
  expect([sixth.status, sixth.body.code]).toEqual([409, "too_many_webhooks"]);
});

test("J9 J12: what is no webhook is refused, with the member that is wrong; by default a target inside is none", async () => {
  const { id } = await client.createEvent();
  const pathOf = async (body: unknown) => {
    const { status, body: problem } = await ask("POST", id, { body });
    const [error] = (problem["errors"] ?? []) as { path: string }[];
    return [status, problem.code, error?.path];
  };
  const bad = { url: "ftp://a/", types: "all" };
  expect(await pathOf({})).toEqual([400, "invalid_request", "url"]);
  expect(await pathOf({ url: bad.url })).toEqual([400, "invalid_request", "url"]);
  expect(await pathOf({ url: `https://a/${"x".repeat(2_048)}` })).toEqual([400, "invalid_request", "url"]);
  expect(await pathOf({ url: "https://a:b@a.example/" })).toEqual([400, "invalid_request", "url"]);
  for (const types of [[], ["x"], bad.types])
    expect((await pathOf({ url: "http://127.0.0.1/", types }))[1]).toBe("invalid_request");
  expect((await ask("DELETE", id, { webhook: "x" })).status).toBe(400);

  await using strict = await startTestCluster({ shards: 1, env: PATIENT });
  const event = await strict.client().createEvent();
  const options = { as: ORGANIZER, role: "organizer" } as const;
  for (const url of [
    "http://203.0.112.1/",
    "https://127.0.0.1/",
    "https://[::ffff:10.0.0.1]/",
    "https://169.254.169.254/",
  ]) {
    const path = `/v1/events/${event.id}/webhooks`;
    const { status, body } = await strict.client().send("POST", path, { ...options, body: { url } });
    expect([url, status, body["errors"]]).toEqual([
      url,
      400,
      [
        {
          path: "url",
          message: expect.stringMatching(/^must (lead to public addresses|be an address that begins)/),
        },
      ],
    ]);
  }
});

async function ask<Body = Record<string, unknown> & { code?: string }>(
  method: string,
  eventId: string,
  {
    webhook,
    as = ORGANIZER,
    role = "organizer",
    body,
  }: { webhook?: string; as?: string; role?: Role; body?: unknown } = {},
) {
  const path = `/v1/events/${eventId}/webhooks${webhook === undefined ? "" : `/${webhook}`}`;
  return client.send<Body>(method, path, { as, role, body });
}

async function deliveredBy({ nodes }: TestCluster): Promise<number> {
  const counts = await Promise.all(
    nodes.map(async ({ adminUrl }) => {
      const metrics = await (await fetch(`${adminUrl}/metrics`)).text();
      return Number(/onsale_webhook_deliveries_total\{result="delivered"\} (\d+)/.exec(metrics)?.[1]);
    }),
  );
  return counts.reduce((sum, count) => sum + count, 0);
}
