import { afterAll, beforeAll, expect, test } from "vitest";
import { audit } from "../../audit/audit.ts";
import type { RunningRouter } from "../../router/router.ts";
import type { RunningNode } from "../../shard-node/node.ts";
import { mintToken } from "../../router/callers/tokens.ts";
import { RPC } from "../../shared/wire/rpc.ts";
import {
  INTERNAL_TOKEN,
  rpcHeadersWith,
  SECRET,
  startTestCluster,
  tally,
  type TestCluster,
} from "../support/running-cluster.ts";
import { eventually } from "../support/eventually.ts";

const NEW_SECRET = "the-secret-that-comes-after-it-111111";
const NEW_INTERNAL_TOKEN = "the-internal-token-that-comes-after-it";
const BUYERS = 4;

let cluster: TestCluster;
beforeAll(async () => {
  cluster = await startTestCluster({ shards: 1, routers: 2 });
});
afterAll(async () => cluster[Symbol.asyncDispose]());

test("F5 S5: both secrets are exchanged process by process while bookings go on, and none fails", async () => {
  const event = await cluster.client().createEvent({ totalTickets: 1_000_000 });
  const { id: eventId } = event;
  const rush = startRush(eventId);
  const bookedMeanwhile = async () => {
    const before = rush.answers.length;
    await eventually("bookings go on", () => rush.answers.length > before + 50);
  };

  // The users' secret: routers take both, then the issuer signs with the new one, then the old one goes.
  const [oldToken, forged] = [await sign(SECRET), await sign("a-secret-that-somebody-has-made-up-000")];
  expect(await bookingWith(oldToken, eventId)).toBe(201);
  expect(await bookingWith(await sign(NEW_SECRET), eventId)).toBe(401);
  await replaceRouters({ AUTH_JWT_SECRET: NEW_SECRET, AUTH_JWT_SECRET_PREVIOUS: SECRET });
  expect(await bookingWith(oldToken, eventId)).toBe(201);
  rush.signWith(NEW_SECRET);
  await bookedMeanwhile();
  await replaceRouters({ AUTH_JWT_SECRET: NEW_SECRET });
  await bookedMeanwhile();
  expect(await bookingWith(await sign(NEW_SECRET), eventId)).toBe(201);
  expect(await bookingWith(oldToken, eventId)).toBe(401);
  expect(await bookingWith(forged, eventId)).toBe(401);

  // The internal token: nodes take both, then routers send the new one, then the old one goes.
  await replaceNode({ INTERNAL_TOKEN: NEW_INTERNAL_TOKEN, INTERNAL_TOKEN_PREVIOUS: INTERNAL_TOKEN });
  await bookedMeanwhile();
  expect([await mapWith(INTERNAL_TOKEN), await mapWith(NEW_INTERNAL_TOKEN)]).toEqual([200, 200]);
  expect(await mapWith(`${INTERNAL_TOKEN.slice(0, -1)}x`)).toBe(401);
  await replaceRouters({ AUTH_JWT_SECRET: NEW_SECRET, INTERNAL_TOKEN: NEW_INTERNAL_TOKEN });
  await bookedMeanwhile();
  await replaceNode({ INTERNAL_TOKEN: NEW_INTERNAL_TOKEN });
  await bookedMeanwhile();
  expect([await mapWith(INTERNAL_TOKEN), await mapWith(NEW_INTERNAL_TOKEN)]).toEqual([401, 200]);

  const answers = await rush.stop();
  expect(tally(answers)).toEqual({ 201: answers.length });
  const { violations, ticketsSold } = await audit(cluster.catalogUrl);
  expect(violations).toEqual([]);
  // And the three that were booked here by hand.
  expect(ticketsSold).toBe(answers.length + 3);
}, 120_000);

let signed = 0;
const sign = async (secret: string) =>
  mintToken({ secret, sub: `user-${(signed += 1)}`, role: "buyer", ttlSeconds: 600 });

async function bookingWith(token: string, eventId: string): Promise<number> {
  const { status } = await cluster.client().send("POST", `/v1/events/${eventId}/bookings`, {
    headers: { authorization: `Bearer ${token}` },
    body: { quantity: 1 },
  });
  return status;
}

async function mapWith(internalToken: string): Promise<number> {
  const headers = rpcHeadersWith(internalToken);
  return (await fetch(`${cluster.nodes[0]?.url}${RPC.map}`, { headers })).status;
}

/** Requests under way at each router: what a load balancer waits for before it lets go of one. */
const underWay = new Map<RunningRouter, number>();

/** Buyers who book without a pause, each at the next router, until they are told to stop. */
function startRush(eventId: string) {
  const answers: number[] = [];
  let secret = SECRET;
  let going = true;
  const buyers = Array.from({ length: BUYERS }, async () => {
    while (going) {
      const headers = { authorization: `Bearer ${await sign(secret)}` };
      const router = cluster.routers[answers.length % cluster.routers.length];
      if (router === undefined) throw new Error("no router");
      underWay.set(router, (underWay.get(router) ?? 0) + 1);
      const body = { quantity: 1 };
      const sent = cluster.client(router).send("POST", `/v1/events/${eventId}/bookings`, { headers, body });
      // What broke on the way counts as a status of its own.
      answers.push(await sent.then(({ status }) => status).catch(() => 0));
      underWay.set(router, (underWay.get(router) ?? 0) - 1);
    }
  });
  return {
    answers,
    signWith: (next: string) => void (secret = next),
    async stop() {
      going = false;
      await Promise.all(buyers);
      return answers;
    },
  };
}

/** One after the other, as a load balancer sees it: the new one comes in, the old one is asked no more, and ends. */
async function replaceRouters(env: Record<string, string>): Promise<void> {
  for (const old of cluster.routers.slice()) {
    await cluster.addRouter(env);
    cluster.routers.splice(cluster.routers.indexOf(old), 1);
    await eventually("the old router has answered", () => (underWay.get(old) ?? 0) === 0);
    await old.close();
  }
}

/** The new node serves beside the old one before that one ends. */
async function replaceNode(env: Record<string, string>): Promise<void> {
  const [shard] = cluster.shards;
  const [old] = cluster.nodes;
  if (shard === undefined || old === undefined) throw new Error("a shard and its node");
  const node = await cluster.addNode(shard, env);
  // Every router asks every node that it knows for the map each second.
  await eventually("all routers know the new node", async () => (await mapReads(node)) > 4);
  cluster.nodes.splice(cluster.nodes.indexOf(old), 1);
  await old.close();
}

async function mapReads(node: RunningNode): Promise<number> {
  const metrics = await (await fetch(`${node.adminUrl}/metrics`)).text();
  const count = /onsale_http_requests_total\{route="\/rpc\/map",method="GET",status="200"\} (\d+)/.exec(
    metrics,
  );
  return Number(count?.[1] ?? 0);
}
