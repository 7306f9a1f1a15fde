/** The client of one shard, in front of nodes that a test makes fail. Its clock stands still. */
import { expect, test } from "vitest";
import { NodeClient } from "../../shared/wire/node-client.ts";
import { OVERLOADED_MS, ShardClient } from "../../router/shards/shard-client.ts";
import type { Snapshot } from "../../shared/domain/events.ts";
import { newBookingId, newEventId, type ShardId, type UserId } from "../../shared/domain/ids.ts";
import { slotOf } from "../../shared/domain/slots.ts";
import { createLog } from "../../shared/process/log.ts";
import { RPC, type CommandsRequest } from "../../shared/wire/rpc.ts";
import { stoppedClock } from "../support/clock.ts";
import { bookCommand, ORGANIZER, settleCommand } from "../support/commands.ts";
import { type FakeNode, json, resultsOf, type Said, startFakeNode } from "../support/fake-node.ts";
import { snapshot, SNAPSHOT_ID as ID } from "../support/snapshots.ts";

const SOLD_OUT = resultsOf([{ outcome: "sold_out" }]);
const REUSED = resultsOf([{ outcome: "idempotency_key_reused" }]);
const FOUND = resultsOf([{ outcome: "found", value: snapshot(1) }]);
const HTML: Said = { body: "<html>502 Bad Gateway</html>" };
const DEADLINE_MS = 2_000;
const USER = "ada" as UserId;
const refuses = (): Said => ({ ...json({ error: "no" }), status: 400 });
const failed = (outcome: string): Said => json({ outcome });

test("F1: a command that the first node cannot take goes to the next one, and its no is for good", async () => {
  await using given = await givenShard(refuses, () => SOLD_OUT);

  expect(await given.book()).toEqual({ outcome: "sold_out" });

  expect(given.callCounts()).toEqual([1, 1]);
});

test("F1: after a lost try the next node is asked under the same key, and a no that may change is outcome_unknown", async () => {
  await using given = await givenShard(
    () => "hang_up",
    () => SOLD_OUT,
  );

  expect(await given.book()).toEqual({ outcome: "outcome_unknown" });

  const sent = given.nodes.map(({ calls }) => (JSON.parse(calls[0]?.body ?? "") as CommandsRequest).commands);
  expect(sent[0]).toMatchObject([{ kind: "book", eventId: ID }]);
  expect(sent[1]).toEqual(sent[0]);
});

test("F1: after a lost try a no that cannot become a yes stands", async () => {
  await using given = await givenShard(
    () => "hang_up",
    () => REUSED,
  );

  expect(await given.book()).toEqual({ outcome: "idempotency_key_reused" });
});

test.for<[string, () => Said | "hang_up", string]>([
  ["hangs up", () => "hang_up", "outcome_unknown"],
  ["answers like a proxy", () => HTML, "outcome_unknown"],
  ["refuses the call", refuses, "shard_unavailable"],
  ["says that its database is away", () => failed("shard_unavailable"), "shard_unavailable"],
])("F1 F9: a lone node that %s is asked twice", async ([, answer, outcome]) => {
  await using given = await givenShard(answer);

  expect(await given.book()).toEqual({ outcome });

  expect(given.callCounts()).toEqual([2]);
});

test("F1: of many nodes two are asked", async () => {
  await using given = await givenShard(refuses, refuses, () => SOLD_OUT);

  expect(await given.book()).toEqual({ outcome: "shard_unavailable" });

  expect(given.callCounts()).toEqual([1, 1, 0]);
});

test("F3: a node whose breaker is open is asked last", async () => {
  await using given = await givenShard(refuses, () => SOLD_OUT);
  for (let failure = 0; failure < 4; failure += 1)
    expect(await given.book()).toEqual({ outcome: "sold_out" });

  expect([given.callCounts(), given.tries()]).toEqual([[3, 4], 7]);
});

test("F2: after the deadline nothing is tried again", async () => {
  await using given = await givenShard(
    () => {
      // A call outlives the deadline a little, for the node's own answer at the deadline.
      given.clock.time += DEADLINE_MS + 200;
      return "hang_up";
    },
    () => SOLD_OUT,
  );

  expect(await given.book()).toEqual({ outcome: "outcome_unknown" });

  expect(given.tries()).toBe(1);
});

test("L5: after a node had no room for a booking, its event is refused here for a moment, but no other and no confirm", async () => {
  await using given = await givenShard(() => resultsOf([{ outcome: "overloaded" }]));
  const others = [
    { ...bookCommand(newEventId(0), "ada"), deadline: given.clock.time + DEADLINE_MS },
    {
      ...settleCommand("confirm", newBookingId(slotOf(ID), 0), USER),
      deadline: given.clock.time + DEADLINE_MS,
    },
  ];
  expect(await given.book()).toEqual({ outcome: "overloaded" });

  expect(await given.book()).toEqual({ outcome: "overloaded" });

  expect([given.tries(), given.shed]).toEqual([1, ["event_overloaded"]]);
  for (const other of others) await given.shard.command(other);
  expect(given.tries()).toBe(3);
  given.clock.time += OVERLOADED_MS;
  await given.book();
  expect(given.tries()).toBe(4);
});

test("F9: garbage is no answer to a read, and a lost read leaves nothing unknown", async () => {
  await using given = await givenShard(
    () => HTML,
    () => FOUND,
  );
  await using lone = await givenShard(() => HTML);

  expect(await given.shard.readEvent(ID, 0)).toEqual({ outcome: "found", value: snapshot(1) });
  expect(await lone.shard.readEvent(ID, 0)).toEqual({ outcome: "shard_unavailable" });
});

test("F1: a node whose connection to the database was cut is asked again for reads, which are never outcome_unknown", async () => {
  const cut = (): Said => ({ ...failed("outcome_unknown"), status: 503 });
  await using lone = await givenShard(cut);
  await using pair = await givenShard(cut, (path) =>
    path === RPC.list ? json({ events: [snapshot(1).event] }) : FOUND,
  );
  const unavailable = { outcome: "shard_unavailable" };

  expect(await lone.shard.list(null, 10, 0)).toEqual(unavailable);
  expect(await lone.shard.readEvent(ID, 0)).toEqual(unavailable);
  expect(await pair.shard.list(null, 10, 0)).toEqual({ events: [snapshot(1).event] });
  expect(await pair.shard.readEvent(ID, 0)).toEqual({ outcome: "found", value: snapshot(1) });
});

test("F1: a lost list is unavailable, and a lost change of an event is outcome_unknown", async () => {
  await using given = await givenShard(() => "hang_up");

  expect(await given.shard.list(null, 10, 0)).toEqual({ outcome: "shard_unavailable" });
  given.clock.time += 1;
  expect(await given.shard.changeEvent({ id: ID, organizer: ORGANIZER, changes: {} })).toEqual({
    outcome: "outcome_unknown",
  });
});

test("F1: a change that meets a newer version after a lost try may have made it, so it is outcome_unknown", async () => {
  const mismatch = json({ outcome: "version_mismatch", snapshot: snapshot(2) });
  await using lost = await givenShard(
    () => "hang_up",
    () => mismatch,
  );
  await using sure = await givenShard(() => mismatch);
  const change = { id: ID, organizer: ORGANIZER, changes: {}, versions: [1] };

  expect(await lost.shard.changeEvent(change)).toEqual({ outcome: "outcome_unknown" });
  expect(await sure.shard.changeEvent(change)).toMatchObject({ outcome: "version_mismatch" });
});

test("C1: what a shard says of an event is learned, as of the moment at which it was asked", async () => {
  await using given = await givenShard((path) => {
    given.clock.time += 5;
    if (path === RPC.commands) return resultsOf([{ outcome: "sold_out" }], [snapshot(2)]);
    return json({ outcome: "saved", snapshot: snapshot(3) });
  });
  const asked = given.clock.time;

  await given.book();
  await given.shard.changeEvent({ id: ID, organizer: ORGANIZER, changes: {} });

  expect(given.learned).toEqual([
    [[snapshot(2)], asked],
    [[snapshot(3)], asked + 5],
  ]);
});

async function givenShard(...answers: Parameters<typeof startFakeNode>[0][]) {
  await using stack = new AsyncDisposableStack();
  const nodes: FakeNode[] = [];
  for (const answer of answers) nodes.push(stack.use(await startFakeNode(answer)));
  const clock = stoppedClock();
  let tries = 0;
  const shed: string[] = [];
  const learned: [readonly Snapshot[], number][] = [];
  const shard = new ShardClient("shard-0" as ShardId, {
    limits: { batchMax: 10, inFlightMax: 2, queueMax: 2 * 10, waitMaxMs: 1_000, perUserMax: 10 },
    readDeadlineMs: DEADLINE_MS,
    commandDeadlineMs: DEADLINE_MS,
    clock,
    observer: { called: () => (tries += 1), shed: (reason) => shed.push(reason) },
    learned: (snapshots, askedAt) => learned.push([snapshots, askedAt]),
    mapSeen: () => undefined,
  });
  const log = createLog("test", "silent");
  shard.useNodes(
    nodes.map(({ url }) => stack.adopt(new NodeClient(url, "t", 2, log), (node) => node.close())),
  );
  const open = stack.move();
  return {
    shard,
    nodes,
    clock,
    learned,
    shed,
    tries: () => tries,
    book: async () => shard.command({ ...bookCommand(ID, "ada"), deadline: clock.time + DEADLINE_MS }),
    callCounts: () => nodes.map(({ calls }) => calls.length),
    [Symbol.asyncDispose]: async () => open.disposeAsync(),
  };
}
