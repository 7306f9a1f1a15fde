/** The log of changes over HTTP, as those who follow it read it. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { type ChangesAnswer, changesAnswerSchema, RPC } from "../../shared/wire/rpc.ts";
import { RPC_HEADERS, startTestCluster, type TestCluster } from "../support/running-cluster.ts";

let cluster: TestCluster;
beforeAll(async () => {
  cluster = await startTestCluster({ shards: 1 });
});
afterAll(async () => cluster[Symbol.asyncDispose]());

test("J4 J5: a follower hears of what clients did, up to the position that their answers say", async () => {
  const client = cluster.client();
  const { position: begin } = await follow(null);
  const event = await client.createEvent({ totalTickets: 7 });
  const booked = await client.book(event.id, "ada", 2, { "idempotency-key": "a" });
  const held = await client.hold(event.id, "bob");
  const confirmed = await client.confirm(held.body.id, "bob");
  const cancelled = await client.cancel(booked.body.id, "ada");

  const positions = [booked, held, confirmed, cancelled].map(({ headers }) => headers.get("onsale-position"));
  const heard = await follow(begin);
  expect(heard.changes.map(({ position }) => position)).toEqual([
    expect.any(Number),
    ...positions.map((position) => Number(position?.split(".")[1])),
  ]);
  expect(heard.changes.map(({ event: whole }) => whole)).toEqual([event, null, null, null, null]);
  expect(heard.changes.flatMap(({ bookings }) => bookings)).toEqual(
    [booked, held, confirmed, cancelled].map(({ body }) => body),
  );
  expect(heard.changes.at(-1)?.events).toEqual([{ id: event.id, version: 5, availableTickets: 6 }]);
  // The same booking again is nothing new.
  const again = await client.book(event.id, "ada", 2, { "idempotency-key": "a" });
  expect(again.headers.get("onsale-position")).toBe(positions.at(-1));
  expect((await client.book(event.id, "eve", 100)).headers.get("onsale-position")).toBeNull();
});

test("J4: a waiting follower is answered when something changes, through whichever node", async () => {
  const client = cluster.client();
  const event = await client.createEvent();
  const [shard] = cluster.shards;
  if (shard === undefined) throw new Error("the cluster has a shard");
  const second = await cluster.addNode(shard);
  const { position } = await follow(null);
  const waiting = [cluster.nodes[0]?.url, second.url].map(async (url) => follow(position, 10_000, url));

  const booked = await client.book(event.id, "waited-for");

  for (const { changes } of await Promise.all(waiting))
    expect(changes.flatMap(({ bookings }) => bookings)).toEqual([booked.body]);
});

test("J4: a call of another form is refused, and a position that is not of the log is told", async () => {
  for (const body of [
    {},
    { follower: "A", after: 0, waitMs: 0 },
    { follower: "a", after: 0, waitMs: 10_001 },
  ])
    expect((await ask(body)).status).toBe(400);
  const answer = await ask({ follower: "a", after: Number.MAX_SAFE_INTEGER, waitMs: 0 });
  expect([answer.status, await answer.json()]).toEqual([410, { outcome: "position_dropped" }]);
});

test("A6 J4: the admin port says how far followers are behind", async () => {
  const [node] = cluster.nodes;
  const { position } = await follow(null);
  await follow(position);
  const metrics = await (await fetch(`${node?.adminUrl}/metrics`)).text();
  expect(metrics).toMatch(/^onsale_log_lag_seconds 0$/m);
  expect(metrics).toMatch(/^onsale_log_followers 0$/m);
  expect(metrics).toMatch(/^onsale_log_kept_seconds \d/m);
  expect(metrics).toMatch(/^onsale_log_answer_bookings_count \d+$/m);
  expect(metrics).toMatch(/^onsale_shed_total\{reason="followers_full"\} 0$/m);
});

async function ask(body: object, url = cluster.nodes[0]?.url): Promise<Response> {
  return fetch(`${url}${RPC.changes}`, { method: "POST", headers: RPC_HEADERS, body: JSON.stringify(body) });
}

async function follow(after: number | null, waitMs = 0, url?: string) {
  const answer = await ask({ follower: "the-test", after, waitMs }, url);
  const said: ChangesAnswer = changesAnswerSchema.parse(await answer.json());
  if (said.outcome !== "changes") throw new Error(`the node said ${said.outcome}`);
  return said;
}
