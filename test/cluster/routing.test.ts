import { expect, test } from "vitest";
import { audit } from "../../audit/audit.ts";
import { moveEmptySlot, settleShards } from "../../migrations/shards.ts";
import { newEventId, type ShardId } from "../../shared/domain/ids.ts";
import type { WireShardMap } from "../../shared/wire/shard-map.ts";
import { SLOT_COUNT, type Slot, slotOf } from "../../shared/domain/slots.ts";
import { type CommandsResponse, RPC, RPC_VERSION, RPC_VERSION_HEADER } from "../../shared/wire/rpc.ts";
import { RPC_HEADERS, startTestCluster, tally, tokenOf } from "../support/running-cluster.ts";
import { createDatabase } from "../support/databases.ts";
import { bookCommand } from "../support/commands.ts";
import { eventually } from "../support/eventually.ts";

test("R2: one, two and four shards own all slots between them, and a shard added later owns none", async () => {
  for (const count of [1, 2, 4]) {
    await using cluster = await startTestCluster({ shards: count });
    const client = cluster.client();
    const events = await Promise.all(Array.from({ length: 12 }, async () => client.createEvent()));
    for (const event of events) expect((await client.book(event.id, "u")).status).toBe(201);

    await using added = await createDatabase("shard");
    const owned = await settleShards(cluster.catalogUrl, [
      { id: "shard-new" as ShardId, databaseUrl: added.url },
    ]);

    expect([...owned.values()]).toEqual([...Array.from({ length: count }, () => SLOT_COUNT / count), 0]);
    await cluster.addNode({ id: "shard-new" as ShardId, databaseUrl: added.url });
    expect((await client.book(events[0]?.id ?? "", "v")).status).toBe(201);
    expect((await audit(cluster.catalogUrl)).violations).toEqual([]);
  }
});

test("R3 R4: a slot moves under a running router; a stale router is rerouted and never writes to the wrong shard", async () => {
  await using cluster = await startTestCluster();
  const client = cluster.client();
  const [first, second] = cluster.shards;
  const [oldNode, newNode] = cluster.nodes;
  if (first === undefined || second === undefined || oldNode === undefined || newNode === undefined)
    throw new Error("two shards");
  let id = newEventId(Date.now());
  while (slotOf(id) >= SLOT_COUNT / 2) id = newEventId(Date.now());
  const slot = slotOf(id);

  // What a router with the old map would send: the old owner refuses it as soon as the slot has moved.
  const stale = async (): Promise<{ status: number; body: CommandsResponse }> => {
    const command = bookCommand(id, "u", 1, "k");
    const response = await fetch(`${oldNode.url}/rpc/commands`, {
      method: "POST",
      headers: RPC_HEADERS,
      body: JSON.stringify({ sentAt: 0, commands: [command] }),
    });
    return { status: response.status, body: (await response.json()) as CommandsResponse };
  };
  const before = await stale();
  expect(before.body.results).toEqual([{ outcome: "event_not_found" }]);

  await moveEmptySlot(cluster.catalogUrl, slot, second.id);

  const refused = await stale();
  expect([refused.status, refused.body.results]).toEqual([421, [{ outcome: "wrong_shard" }]]);
  expect(refused.body.mapVersion).toBeGreaterThan(before.body.mapVersion);
  // The router knows the old map still: its first request goes to the old owner and is rerouted to the new one.
  const answer = await client.book(id, "u");
  expect([answer.status, answer.body.code]).toEqual([404, "event_not_found"]);
  const decided = /onsale_http_requests_total\{route="\/rpc\/commands",method="POST",status="200"\} 1$/m;
  expect(await (await fetch(`${newNode.adminUrl}/metrics`)).text()).toMatch(decided);
  expect((await audit(cluster.catalogUrl)).violations).toEqual([]);
});

test("R3: migrations that race with moves leave every slot with one owner, the catalog's", async () => {
  await using cluster = await startTestCluster();
  const [, second] = cluster.shards;
  if (second === undefined) throw new Error("two shards");
  const moved = Array.from({ length: 40 }, (_, slot) => slot as Slot);

  const moves = (async () => {
    for (const slot of moved) await moveEmptySlot(cluster.catalogUrl, slot, second.id);
  })();
  let moving = true;
  void moves.finally(() => (moving = false)).catch(() => undefined);
  let migrations = 0;
  while (moving) {
    await settleShards(cluster.catalogUrl, cluster.shards);
    migrations += 1;
  }
  await moves;

  expect(migrations).toBeGreaterThan(3);
  expect((await audit(cluster.catalogUrl)).violations).toEqual([]);
  expect((await settleShards(cluster.catalogUrl, cluster.shards)).get(second.id)).toBe(
    SLOT_COUNT / 2 + moved.length,
  );
});

test("R2 R4: migrations that change no owner make newer maps, and no request minds", async () => {
  await using cluster = await startTestCluster();
  const client = cluster.client();
  const events = await Promise.all(Array.from({ length: 12 }, async () => client.createEvent()));
  const [node] = cluster.nodes;
  const versionAtNode = async () => {
    const answer = await fetch(`${node?.url}${RPC.map}`, { headers: RPC_HEADERS });
    return ((await answer.json()) as WireShardMap).version;
  };
  const versions = new Set([await versionAtNode()]);
  const outcomes: number[] = [];

  await eventually("the node has read three newer maps", async () => {
    await settleShards(cluster.catalogUrl, cluster.shards);
    const user = `user-${outcomes.length}`;
    const answers = await Promise.all(events.map(async ({ id }) => client.book(id, user)));
    outcomes.push(...answers.map(({ status }) => status));
    versions.add(await versionAtNode());
    return versions.size > 3;
  });

  expect([...versions]).toEqual([...versions].toSorted((a, b) => a - b));
  expect(tally(outcomes)).toEqual({ 201: outcomes.length });
  expect((await audit(cluster.catalogUrl)).violations).toEqual([]);
});

test("R3: a slot that holds events does not move", async () => {
  await using cluster = await startTestCluster();
  const event = await cluster.client().createEvent();
  const owner = cluster.shards[slotOf(event.id) < SLOT_COUNT / 2 ? 0 : 1];
  const other = cluster.shards.find((shard) => shard !== owner);

  await expect(
    moveEmptySlot(cluster.catalogUrl, slotOf(event.id), other?.id ?? ("" as ShardId)),
  ).rejects.toThrow(/holds events/);

  expect((await cluster.client().book(event.id, "u")).status).toBe(201);
  expect((await audit(cluster.catalogUrl)).violations).toEqual([]);
});

test("R4: while routers race with moving slots, every event is created on the shard that owns it", async () => {
  await using cluster = await startTestCluster({ routers: 2 });
  const clients = cluster.routers.map((router) => cluster.client(router));
  const token = await tokenOf("o", "organizer");
  let moving = true;
  const outcomes: number[] = [];
  const creating = clients.map(async (client) => {
    while (moving) {
      const body = { name: "x", startsAt: "2030-01-01T00:00:00Z", totalTickets: 1 };
      outcomes.push(
        (await client.send("POST", "/v1/events", { headers: { authorization: `Bearer ${token}` }, body }))
          .status,
      );
    }
  });
  const refusals: string[] = [];
  for (let slot = 0; slot < 60; slot += 1) {
    const to = cluster.shards[1]?.id ?? ("" as ShardId);
    await moveEmptySlot(cluster.catalogUrl, slot as Slot, to).catch((error: Error) =>
      refusals.push(error.message),
    );
  }
  moving = false;
  await Promise.all(creating);
  expect(refusals.filter((message) => !message.includes("holds events"))).toEqual([]);

  expect(tally(outcomes)["201"]).toBeGreaterThan(20);
  expect(Object.keys(tally(outcomes)).filter((status) => !["201", "503"].includes(status))).toEqual([]);
  expect((await audit(cluster.catalogUrl)).violations).toEqual([]);
});

test("R5: a node refuses by name a router of another version, and one that names none, and does nothing", async () => {
  await using cluster = await startTestCluster({ shards: 1 });
  const client = cluster.client();
  const { id } = await client.createEvent();
  const command = bookCommand(id, "ada");
  const { [RPC_VERSION_HEADER]: _, ...unversioned } = RPC_HEADERS;
  const body = JSON.stringify({ sentAt: 0, commands: [command] });
  for (const [headers, spoken] of [
    [{ ...RPC_HEADERS, [RPC_VERSION_HEADER]: "2" }, "spoke 2"],
    [{ ...RPC_HEADERS, [RPC_VERSION_HEADER]: "" }, "spoke "],
    [unversioned, "named no version"],
  ] as const) {
    const answer = await fetch(`${cluster.nodes[0]?.url}${RPC.commands}`, { method: "POST", headers, body });
    expect([answer.status, answer.headers.get(RPC_VERSION_HEADER), await answer.json()]).toEqual([
      400,
      RPC_VERSION,
      { error: `this node speaks RPC ${RPC_VERSION}; the router ${spoken}` },
    ]);
  }
  expect((await client.readEvent(id)).availableTickets).toBe(100);
});
