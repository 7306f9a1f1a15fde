/** The client of one node, against a node that says what it should not, or nothing at all. */
import { afterEach, expect, test, vi } from "vitest";
import type { z } from "zod";
import { CallError, NodeClient } from "../../shared/wire/node-client.ts";
import { newEventId } from "../../shared/domain/ids.ts";
import type { Log } from "../../shared/process/log.ts";
import {
  commandsAnswerSchema,
  eventAnswerSchema,
  eventsAnswerSchema,
  listAnswerSchema,
  mapAnswerSchema,
  RPC,
  RPC_VERSION,
  RPC_VERSION_HEADER,
} from "../../shared/wire/rpc.ts";
import { json, resultsOf, type Said, startFakeNode } from "../support/fake-node.ts";
import { snapshot } from "../support/snapshots.ts";

const NOW = "2030-01-01T00:00:00.000Z";
const booking = {
  id: newEventId(Date.now()),
  eventId: newEventId(Date.now()),
  userId: "ada",
  quantity: 1,
  status: "confirmed",
  expiresAt: null,
  createdAt: NOW,
  updatedAt: NOW,
};
const booked = { outcome: "booked", booking };
const HTML = "<html><body>502 Bad Gateway</body></html>";
const COMMANDS = { path: RPC.commands, body: {}, answer: commandsAnswerSchema, results: 1, timeoutMs: 5_000 };

afterEach(() => void vi.useRealTimers());

test("F9 R5: a whole answer is the answer, and the call names the version of its RPC", async () => {
  await using given = await givenNode(() => resultsOf([booked], [snapshot(2), { event: {} }, null, "x"]));

  const answer = await given.client.call(COMMANDS);

  // What is no snapshot among the snapshots counts as absent.
  expect(answer).toEqual({ results: [booked], snapshots: [snapshot(2)], mapVersion: 1 });
  expect(given.node.calls.map(({ headers }) => headers[RPC_VERSION_HEADER])).toEqual([RPC_VERSION]);
});

test.for<[string, Said]>([
  ["a page of a proxy", { body: HTML }],
  ["a page of a proxy that passes on the headers", { body: HTML, version: RPC_VERSION }],
  ["no JSON to its end", { body: '{"results":[', version: RPC_VERSION }],
  ["something else", json("booked")],
  ["no results", json({ snapshots: [], mapVersion: 1 })],
  ["a result too few", resultsOf([])],
  ["a result too many", resultsOf([booked, booked])],
  ["a result that is none", resultsOf([null])],
  ["an outcome that nobody knows", resultsOf([{ outcome: "given_away" }])],
  ["a yes without its booking", resultsOf([{ outcome: "booked", booking: null }])],
  ["a booking without an id", resultsOf([{ outcome: "booked", booking: { ...booking, id: undefined } }])],
  ["a status that nobody knows", resultsOf([{ ...booked, booking: { ...booking, status: "lost" } }])],
  ["a quantity in words", resultsOf([{ ...booked, booking: { ...booking, quantity: "one" } }])],
  ["a no without its number", resultsOf([{ outcome: "insufficient_tickets" }])],
  ["no version of the map", json({ results: [booked], snapshots: [] })],
  ["an answer of an RPC before versions", { body: resultsOf([booked]).body }],
  ["an answer of another RPC", json({ results: [booked], snapshots: [], mapVersion: 1 }, "7")],
])("F1 F9: %s is no answer to a command, which may have taken effect", async ([, said]) => {
  await using given = await givenNode(() => said);

  await expect(given.client.call(COMMANDS)).rejects.toMatchObject({ kind: "unanswered" });
});

const withoutVersion = { ...snapshot(1), event: { ...snapshot(1).event, version: undefined } };
test.for<[string, z.ZodType, object]>([
  ["an event", eventsAnswerSchema, { results: [{ outcome: "found", value: withoutVersion }], mapVersion: 1 }],
  ["a list", listAnswerSchema, { events: [{ id: booking.eventId }] }],
  ["an event that was saved", eventAnswerSchema, { outcome: "saved", snapshot: { event: {} } }],
])("F9: %s with holes is no answer", async ([, answer, said]) => {
  await using given = await givenNode(() => json(said));

  await expect(given.client.call({ ...COMMANDS, answer })).rejects.toMatchObject({ kind: "unanswered" });
});

test("R5: a node that speaks another version has done nothing, and the log says so once", async () => {
  await using given = await givenNode(() => ({ ...json({ error: "no" }, "1"), status: 400 }));

  for (let call = 0; call < 2; call += 1)
    await expect(given.client.call(COMMANDS)).rejects.toMatchObject({ kind: "unsent" });

  const said = `this router speaks RPC ${RPC_VERSION}; the node spoke 1`;
  expect(given.warnings).toEqual([expect.stringContaining(said)]);
});

test("F1: nobody knows what became of a call that the node hung up on, or did not answer in time", async () => {
  await using hanging = await givenNode(() => "hang_up");
  await using silent = await givenNode(() => new Promise<Said>(() => undefined));

  for (const { client } of [hanging, silent])
    await expect(client.call({ ...COMMANDS, timeoutMs: 50 })).rejects.toMatchObject({ kind: "unanswered" });
});

test("F1: a node that is gone has not seen the call", async () => {
  await using given = await givenNode(() => resultsOf([booked]));
  await given.node[Symbol.asyncDispose]();

  await expect(given.client.call(COMMANDS)).rejects.toMatchObject({ kind: "unsent" });
});

test.for<[string, () => Said]>([
  ["no answer", () => ({ body: HTML })],
  ["failures only", () => resultsOf([{ outcome: "shard_unavailable" }])],
])(
  "F3: after three calls with %s no client's call tests the node; a probe finds it well again",
  async ([, bad]) => {
    vi.useFakeTimers({ toFake: ["Date", "performance"] });
    let isWell = false;
    await using given = await givenNode(() => (isWell ? resultsOf([booked]) : bad()));
    const { client, node } = given;
    const call = async () => client.call(COMMANDS).catch((error: unknown) => error);

    for (let failure = 0; failure < 3; failure += 1) {
      expect(client.open).toBe(false);
      await call();
    }
    expect(client.open).toBe(true);
    vi.advanceTimersByTime(1_000);
    expect(await call()).toEqual(new CallError("unsent", `${node.url} failed lately`));
    expect(node.calls).toHaveLength(3);

    isWell = true;
    // Somebody sets the clock of the router's machine.
    vi.setSystemTime(Date.now() - 3_600_000);
    await client.probe(COMMANDS);
    expect(await call()).toMatchObject({ results: [booked] });
    expect(client.open).toBe(false);
  },
);

test("F3: a node that knows the map but whose database is away stays left alone", async () => {
  vi.useFakeTimers({ toFake: ["performance"] });
  await using given = await givenNode(() => json({ outcome: "shard_unavailable" }));
  for (let failure = 0; failure < 3; failure += 1) await given.client.call(COMMANDS);
  const answer = mapAnswerSchema;
  const probe = async () => given.client.probe({ path: RPC.map, answer, timeoutMs: 1_000 });

  given.node.map = { ...given.node.map, databaseUp: false };
  vi.advanceTimersByTime(1_000);
  await probe();
  expect(given.client.open).toBe(true);

  given.node.map = { ...given.node.map, databaseUp: true };
  vi.advanceTimersByTime(1_000);
  await probe();
  expect(given.client.open).toBe(false);
});

test("F2: calls that are not coalesced are bounded by kind, and the surplus is refused without being sent", async () => {
  const gate = Promise.withResolvers<Said>();
  await using given = await givenNode(() => gate.promise);

  const calls = Array.from({ length: 217 }, async () => given.client.direct("change", COMMANDS));
  await expect(calls.at(-1)).rejects.toMatchObject({ kind: "busy" });
  const lists = Array.from({ length: 205 }, async () => given.client.direct("list", COMMANDS));
  await expect(lists.at(-1)).rejects.toMatchObject({ kind: "busy" });
  await expect.poll(() => given.node.calls.length).toBe(16 + 4);
  gate.resolve(resultsOf([booked]));

  expect(await Promise.all([...calls.slice(0, -1), ...lists.slice(0, -1)])).toHaveLength(216 + 204);
});

test("F2: the wait for a place counts: a call whose time is over by then is not sent", async () => {
  await using given = await givenNode(async () => new Promise(() => undefined));
  const change = async (timeoutMs: number) => given.client.direct("change", { ...COMMANDS, timeoutMs });
  const hanging = Promise.allSettled(Array.from({ length: 16 }, async () => change(1_000)));
  await expect(change(500)).rejects.toMatchObject({ kind: "busy" });
  for (const call of await hanging) expect(call).toMatchObject({ status: "rejected" });
  expect(given.node.calls).toHaveLength(16);
});

async function givenNode(answer: Parameters<typeof startFakeNode>[0]) {
  const node = await startFakeNode(answer);
  const warnings: string[] = [];
  const log = { info: () => undefined, warn: ({ reason }: { reason: string }) => void warnings.push(reason) };
  const client = new NodeClient(node.url, "a token", 4, log as unknown as Log);
  return {
    node,
    client,
    warnings,
    async [Symbol.asyncDispose]() {
      await node[Symbol.asyncDispose]();
      await client.close();
    },
  };
}
