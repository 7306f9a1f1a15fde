import type { ServerResponse } from "node:http";
import { expect, test } from "vitest";
import type { Booking } from "../../shared/domain/bookings.ts";
import {
  type BookingId,
  type EventId,
  newBookingId,
  type Slot,
  type UserId,
} from "../../shared/domain/ids.ts";
import { CSV_TYPE, READ_SIDE, type UserBookingsRequest } from "../../shared/wire/read-side.ts";
import { RPC, RPC_VERSION, RPC_VERSION_HEADER } from "../../shared/wire/rpc.ts";
import { eventually } from "../support/eventually.ts";
import { json, resultsOf, type Said, startFakeNode } from "../support/fake-node.ts";
import { serve } from "../support/listen.ts";
import { startLoneRouter } from "../support/lone-router.ts";
import { tokenOf } from "../support/running-cluster.ts";
import { snapshot, SNAPSHOT_ID } from "../support/snapshots.ts";

const AT = "2026-01-01T00:00:00.000Z";
const OWNER = "grace" as UserId;

const bookingOf = (userId: string, minute: number, fields: Partial<Booking> = {}): Booking => ({
  id: newBookingId(0 as Slot, Date.parse(AT) + minute * 60_000),
  eventId: SNAPSHOT_ID,
  userId: userId as UserId,
  quantity: 1,
  status: "confirmed",
  expiresAt: null,
  createdAt: AT,
  updatedAt: AT,
  ...fields,
});

/** A router whose shard has these bookings and one event, and a read side that says what `answer` says. */
async function start({
  answer,
  inShard = [],
}: {
  answer: Parameters<typeof startFakeNode>[0];
  inShard?: readonly Booking[];
}) {
  const readSide = await startFakeNode(answer);
  // A short deadline, for a read side that hangs.
  const router = await startLoneRouter(
    { READ_SIDE_URL: readSide.url, READ_DEADLINE_MS: "100" },
    (path, body): Said => {
      if (path !== RPC.read) throw new Error(`nobody asks for ${path}`);
      const { kind, ids } = JSON.parse(body) as { kind: string; ids: (BookingId & EventId)[] };
      const read = (id: BookingId & EventId) => {
        if (kind === "event") return { outcome: "found", value: snapshot(1, { id, ownerId: OWNER }) };
        const value = inShard.find((booking) => booking.id === id);
        return value === undefined ? { outcome: "absent" } : { outcome: "found", value };
      };
      return resultsOf(ids.map(read));
    },
  );
  return {
    readSide,
    client: router.client,
    router,
    async [Symbol.asyncDispose]() {
      await router[Symbol.asyncDispose]();
      await readSide[Symbol.asyncDispose]();
    },
  };
}

const pageOf = (items: readonly Booking[], hasPosition = true): Said =>
  json({ outcome: "page", items, asOf: AT, hasPosition });
const positionOf = ({ id }: Booking, position = 7) => ({ "onsale-position": `shard-0.${position}.${id}` });

type Page = { items: Booking[]; nextCursor: string | null; asOf: string };

test("V2: a booking that the read side does not have yet comes from its shard, at its place", async () => {
  const [oldest, older, mine, newer] = [1, 2, 3, 4].map((minute) => bookingOf("ada", minute)) as [
    Booking,
    Booking,
    Booking,
    Booking,
  ];
  const foreign = bookingOf("eve", 5);
  let items: Booking[] = [newer, older, oldest];
  await using cluster = await start({ answer: () => pageOf(items, false), inShard: [mine, foreign] });
  const list = async (query: string, of: Booking) =>
    (await cluster.client.send<Page>("GET", `/v1/bookings${query}`, { as: "ada", headers: positionOf(of) }))
      .body;
  const idsOf = ({ items: listed }: Page) => listed.map(({ id }) => id);

  const whole = await list("", mine);
  const asked = JSON.parse(cluster.readSide.calls[0]?.body ?? "") as UserBookingsRequest;
  const cut = await list("?limit=2", mine);
  const older2 = await list(`?cursor=${mine.id}`, mine);
  const held = await list("?status=held", mine);
  const foreignAsked = await list("", foreign);
  items = [newer, { ...mine, status: "held" }, older];
  const replaced = await list("?limit=2", mine);
  const noLongerHeld = await list("?limit=2&status=held", mine);

  expect(asked).toMatchObject({ userId: "ada", position: { shard: "shard-0", position: 7 }, waitMs: 500 });
  expect([idsOf(whole), whole.nextCursor, whole.asOf]).toEqual([
    [newer.id, mine.id, older.id, oldest.id],
    null,
    AT,
  ]);
  expect([idsOf(cut), cut.nextCursor]).toEqual([[newer.id, mine.id], mine.id]);
  expect(idsOf(older2)).not.toContain(mine.id);
  expect(idsOf(held)).not.toContain(mine.id);
  expect(idsOf(foreignAsked)).toEqual([newer.id, older.id, oldest.id]);
  expect([replaced.items[1], replaced.nextCursor]).toEqual([mine, mine.id]);
  expect([idsOf(noLongerHeld), noLongerHeld.nextCursor]).toEqual([[newer.id, older.id], older.id]);
});

test("V2: a position that no answer carried is refused", async () => {
  await using cluster = await start({ answer: () => pageOf([]) });
  for (const position of [
    "",
    "x",
    "shard-0.7",
    `shard-0.-1.${SNAPSHOT_ID}`,
    `shard-0.9007199254740993.${SNAPSHOT_ID}`,
  ]) {
    const headers = { "onsale-position": position };
    const answer = await cluster.client.send("GET", "/v1/bookings", { as: "ada", headers });
    expect([position, answer.status, answer.body["errors"]]).toMatchObject([
      position,
      400,
      [{ path: "onsale-position" }],
    ]);
  }
  expect(cluster.readSide.calls).toEqual([]);
});

test("V3: only the owner of an event and operators see its statistics and its bookings", async () => {
  const zero = { held: 0, confirmed: 0, cancelled: 0, expired: 0, buyers: 0, perMinute: [] };
  await using cluster = await start({
    answer: (path) =>
      path === READ_SIDE.statistics ? json({ outcome: "absent", asOf: AT }) : pageOf([bookingOf("ada", 1)]),
  });
  const ask = async (path: string, as: string, role: "buyer" | "organizer" | "operator") => {
    const { status, body } = await cluster.client.send("GET", `/v1/events/${SNAPSHOT_ID}/${path}`, {
      as,
      role,
    });
    return { status, body };
  };
  for (const path of ["statistics", "bookings"]) {
    expect([path, (await ask(path, "mallory", "organizer")).body.code]).toEqual([path, "forbidden"]);
    expect([path, (await ask(path, OWNER, "buyer")).status]).toEqual([path, 403]);
    expect([path, (await ask(path, "op", "operator")).status]).toEqual([path, 200]);
  }
  // Of an event that is newer than what the read side has heard, nothing was sold.
  const { body } = await ask("statistics", OWNER, "organizer");
  expect(body).toEqual({ eventId: SNAPSHOT_ID, totalTickets: 10, available: 5, ...zero, asOf: AT });
});

test("V5: while the read side is away, hangs or is behind, its routes say so at once, and all others go on", async () => {
  let state: "well" | "behind" | "gone" | "hung" = "gone";
  await using cluster = await start({
    answer: () => {
      if (state === "gone") return "hang_up";
      if (state === "hung") return new Promise(() => undefined);
      const said = state === "well" ? pageOf([]) : json({ outcome: "read_side_unavailable" });
      return { ...said, status: state === "well" ? 200 : 503 };
    },
  });
  const ask = async (path = "/v1/bookings") => cluster.client.send("GET", path, { as: "ada" });
  const expectUnavailable = async () => {
    const { status, body, headers } = await ask();
    expect([status, body.code, headers.get("retry-after")]).toEqual([503, "read_side_unavailable", "1"]);
  };
  for (let count = 0; count < 5; count += 1) await expectUnavailable();
  // It was asked until it was known to be away, and then no client waited for it.
  expect(cluster.readSide.calls.length).toBeLessThan(5);
  expect((await ask(`/v1/events/${SNAPSHOT_ID}`)).status).toBe(200);

  state = "well";
  await eventually("it is asked again", async () => (await ask()).status === 200);
  state = "hung";
  for (let count = 0; count < 3; count += 1) await expectUnavailable();
  const asked = cluster.readSide.calls.length;
  await Promise.all(Array.from({ length: 5 }, expectUnavailable));
  // At most one question, for which no client waited, finds out whether it is back.
  expect(cluster.readSide.calls.length).toBeLessThanOrEqual(asked + 1);

  state = "well";
  await eventually("it is asked again", async () => (await ask()).status === 200);
  state = "behind";
  await expectUnavailable();
});

test("V5: a cluster without a read side says so", async () => {
  await using router = await startLoneRouter();
  const { status, body } = await router.client.send("GET", "/v1/bookings", { as: "ada" });
  expect([status, body.code, body["detail"]]).toEqual([
    503,
    "read_side_unavailable",
    "This cluster has no read side.",
  ]);
});

test("V6: a user has few lists under way, and takes nobody else's places", async () => {
  const { promise: goOn, resolve } = Promise.withResolvers<void>();
  await using cluster = await start({
    answer: async (_, body) => {
      if ((JSON.parse(body) as UserBookingsRequest).userId === "eve") await goOn;
      return pageOf([]);
    },
  });
  const list = async (as: string) => (await cluster.client.send("GET", "/v1/bookings", { as })).status;
  const open = Array.from({ length: 4 }, async () => list("eve"));
  await eventually("all are under way", () => cluster.readSide.calls.length === 4);

  expect([await list("eve"), await list("ada")]).toEqual([429, 200]);
  resolve();
  expect(await Promise.all(open)).toEqual([200, 200, 200, 200]);
  expect(await list("eve")).toBe(200);
});

test("V7: an export reaches the client as it comes, whole or visibly not, and one at a time", async () => {
  const { promise, resolve } = Promise.withResolvers<ServerResponse>();
  let exports = 0;
  let answers = promise;
  await using side = await serve((_, response) => {
    exports += 1;
    response.writeHead(200, { "content-type": CSV_TYPE, [RPC_VERSION_HEADER]: RPC_VERSION });
    response.write("id,userId\n");
    resolve(response);
    answers = Promise.resolve(response);
  });
  await using router = await startLoneRouter({ READ_SIDE_URL: side.url });
  const open = async (method = "GET") =>
    fetch(`${router.client.url}/v1/events/${SNAPSHOT_ID}/bookings`, {
      method,
      headers: { accept: "text/csv", authorization: `Bearer ${await tokenOf("op", "operator")}` },
    });
  const begun = async (answer: Response) => {
    const reader = answer.body?.getReader();
    const first = await reader?.read();
    return { reader, text: Buffer.from(first?.value ?? []).toString() };
  };

  for (let count = 0; count < 3; count += 1) expect((await open("HEAD")).status).toBe(200);
  expect(exports).toBe(0);

  const whole = await open();
  expect([whole.status, whole.headers.get("content-type")]).toEqual([200, CSV_TYPE]);
  const { reader, text } = await begun(whole);
  expect(text).toBe("id,userId\n");
  expect((await open()).status).toBe(429);
  (await answers).end("1,ada\n");
  expect(Buffer.from((await reader?.read())?.value ?? []).toString()).toBe("1,ada\n");
  expect(await reader?.read()).toMatchObject({ done: true });

  const broken = await eventually("there is a place again", async () => {
    const answer = await open();
    return answer.status === 200 && answer;
  });
  const { reader: rest } = await begun(broken);
  (await answers).destroy();
  await expect(rest?.read()).rejects.toThrow("terminated");

  const left = await eventually("there is a place again", async () => {
    const answer = await open();
    return answer.status === 200 && answer;
  });
  const upstream = await answers;
  await left.body?.cancel();
  // A client that only says that it will send no more may still read, so what is sent finds out that this one has left.
  await eventually("the export ends", () => upstream.closed || (upstream.write("2,eve\n"), false));
});
