/** The shards as a router sees them, over nodes that say what map and owner a test wants. */
import { expect, test } from "vitest";
import { Cluster } from "../../router/shards/cluster.ts";
import { createLog } from "../../shared/process/log.ts";
import { stoppedClock } from "../support/clock.ts";
import { bookCommand } from "../support/commands.ts";
import { eventually } from "../support/eventually.ts";
import { type FakeNode, mapOf, resultsOf, type Said, startFakeNode } from "../support/fake-node.ts";
import { SNAPSHOT_ID as ID } from "../support/snapshots.ts";

const SOLD_OUT = resultsOf([{ outcome: "sold_out" }]);
const wrongShard = (mapVersion: number): Said => ({
  ...resultsOf([{ outcome: "wrong_shard" }], [], mapVersion),
  status: 421,
});

test("R4: a request that a node refuses goes to the owner in the map that the router then reads", async () => {
  await using given = await givenNodes(
    () => {
      given.giveTo("new", 2);
      return wrongShard(2);
    },
    () => SOLD_OUT,
  );
  given.giveTo("old", 1);
  await given.cluster.refreshMap();

  expect([await given.book(), await given.book()]).toEqual([
    { outcome: "sold_out" },
    { outcome: "sold_out" },
  ]);

  expect(given.callCounts()).toEqual([1, 2]);
});

test("R4: a request is rerouted once; then its shard is unavailable", async () => {
  await using given = await givenNodes(
    () => {
      given.giveTo("new", 2);
      return wrongShard(2);
    },
    () => wrongShard(2),
  );
  given.giveTo("old", 1);
  await given.cluster.refreshMap();

  expect(await given.book()).toEqual({ outcome: "shard_unavailable" });

  expect(given.callCounts()).toEqual([1, 1]);
});

test("R4: of several maps the newest counts, and an older one never replaces it", async () => {
  await using given = await givenNodes(
    () => SOLD_OUT,
    () => SOLD_OUT,
  );
  const [old, recent] = given.nodes as [FakeNode, FakeNode];
  old.map = mapOf(2, "old", [old.url]);
  recent.map = mapOf(3, "new", [recent.url]);
  await given.cluster.refreshMap();
  await given.book();

  recent.map = old.map;
  await given.cluster.refreshMap();
  await given.book();

  expect(given.callCounts()).toEqual([0, 2]);
});

test("R2: a map in which a slot has no owner is none", async () => {
  await using given = await givenNodes(() => SOLD_OUT);
  const [node] = given.nodes as [FakeNode];
  node.map = { version: 5, shards: [{ id: "old", nodeUrls: [node.url], slotRanges: [[0, 10]] }] };
  await given.cluster.refreshMap();

  expect([given.cluster.unready, await given.book()]).toEqual([
    "no node has told the shard map yet",
    { outcome: "shard_unavailable" },
  ]);
});

test("F3: while the map names no node of a shard, its last ones are asked", async () => {
  await using given = await givenNodes(() => SOLD_OUT);
  const [node] = given.nodes as [FakeNode];
  given.giveTo("old", 1);
  await given.cluster.refreshMap();

  node.map = mapOf(2, "old", []);
  await given.cluster.refreshMap();

  expect(await given.book()).toEqual({ outcome: "sold_out" });
});

test("F11: a router is unready when no node answers twice in a row, and ready when one does again", async () => {
  await using given = await givenNodes(
    () => SOLD_OUT,
    () => SOLD_OUT,
  );
  const [first, second] = given.nodes as [FakeNode, FakeNode];
  given.giveTo("old", 1);
  const askedThrice = async () => {
    const said = [];
    for (let times = 0; times < 3; times += 1) {
      await given.cluster.refreshMap();
      said.push(given.cluster.unready);
    }
    return said;
  };
  expect(await askedThrice()).toEqual([undefined, undefined, undefined]);
  first.mapSilences = Infinity;
  expect(await askedThrice()).toEqual([undefined, undefined, undefined]);
  second.mapSilences = 1;
  expect(await askedThrice()).toEqual([undefined, undefined, undefined]);

  second.mapSilences = Infinity;
  expect((await askedThrice()).slice(1)).toEqual([
    `no node answers: ${first.url}, ${second.url}`,
    `no node answers: ${first.url}, ${second.url}`,
  ]);

  second.mapSilences = 0;
  await eventually("it is ready again", () => given.cluster.unready === undefined);
});

/** Nodes of the shards `old` and `new`, and a router's view of them, which knows no map yet. */
async function givenNodes(...answers: Parameters<typeof startFakeNode>[0][]) {
  await using stack = new AsyncDisposableStack();
  const nodes: FakeNode[] = [];
  for (const answer of answers) nodes.push(stack.use(await startFakeNode(answer)));
  for (const node of nodes) node.map = { version: 0, shards: [] };
  const clock = stoppedClock();
  const options = {
    seedUrls: nodes.map(({ url }) => url),
    internalToken: "a token",
    log: createLog("test", "silent"),
    limits: { batchMax: 10, inFlightMax: 2, queueMax: 2 * 10, waitMaxMs: 1_000, perUserMax: 10 },
    readDeadlineMs: 1_000,
    commandDeadlineMs: 1_000,
    clock,
    observer: { called: () => undefined, shed: () => undefined },
    learned: () => undefined,
  };
  const cluster = stack.adopt(new Cluster(options), async (open) => open.close());
  // The first question for the map, which the router asks by itself, is over.
  await cluster.refreshMap();
  const open = stack.move();
  return {
    cluster,
    nodes,
    /** All nodes say so from here on. */
    giveTo(id: "old" | "new", version: number) {
      const owner = nodes[id === "old" ? 0 : 1]?.url ?? "";
      for (const node of nodes) node.map = mapOf(version, id, [owner]);
    },
    book: async () => cluster.command({ ...bookCommand(ID, "ada"), deadline: clock.time + 1_000 }),
    callCounts: () => nodes.map(({ calls }) => calls.length),
    [Symbol.asyncDispose]: async () => open.disposeAsync(),
  };
}
