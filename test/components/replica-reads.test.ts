/** The rule of reads from replicas (docs/decisions/0011-replica-reads.md), step by step with a clock that stands still. */
import { expect, test } from "vitest";
import { EventCache } from "../../router/cache/event-cache.ts";
import { Reader } from "../../shard-node/read/reader.ts";
import { Replica } from "../../shard-node/read/replica.ts";
import type { EventId } from "../../shared/domain/ids.ts";
import { type Database, DatabaseError } from "../../shared/database/database.ts";
import type { ReadResult } from "../../shared/wire/rpc.ts";
import type { Snapshot } from "../../shared/domain/events.ts";
import { stoppedClock } from "../support/clock.ts";
import { snapshot, SNAPSHOT_ID as ID } from "../support/snapshots.ts";

const OTHER = "01a20409-0c00-7c2b-af63-0abca586c6cc" as EventId;

/** A replica and its primary, as far as their positions in the log go; undefined is a server that does not answer. */
function givenReplica() {
  const clock = stoppedClock();
  const state = { written: 100 as number | undefined, replayed: 100 as number | undefined, follows: true };
  const server = (answer: () => { position: number | undefined; follows?: boolean }) =>
    ({
      query: async () => {
        const row = answer();
        if (row.position === undefined) throw new DatabaseError("unreachable", "away");
        return [row];
      },
    }) as unknown as Database;
  const primary = server(() => ({ position: state.written }));
  const database = server(() => ({ position: state.replayed, follows: state.follows }));
  return { clock, state, replica: new Replica(primary, database, clock) };
}

test("P2: a replica is as old as the newest moment of which it has everything, and an idle primary makes it no older", async () => {
  const { clock, state, replica } = givenReplica();
  expect(replica.ageMs).toBe(Number.POSITIVE_INFINITY);
  await replica.check();
  clock.time += 70;
  expect([replica.ageMs, replica.lagSeconds]).toEqual([70, 0]);

  clock.time += 30;
  await replica.check();
  expect(replica.ageMs).toBe(0);

  // Ahead of the first mark, behind the second: what was committed in between is missing.
  state.written = 200;
  clock.time += 100;
  await replica.check();
  state.replayed = 150;
  clock.time += 100;
  await replica.check();
  expect([replica.ageMs, replica.lagSeconds]).toEqual([200, 0.2]);

  // It follows at a distance: as old as the distance, though it is never where the primary is.
  state.written = 300;
  state.replayed = 200;
  clock.time += 100;
  await replica.check();
  expect(replica.ageMs).toBe(100);
});

test("P2: a replica without its primary ages, and one that is promoted, cut off or away is not asked", async () => {
  const { clock, state, replica } = givenReplica();
  await replica.check();
  state.written = undefined;
  clock.time += 600;
  expect(await replica.check()).toBe("skipped");
  expect([replica.ageMs, replica.lagSeconds]).toEqual([600, 0]);

  state.written = 100;
  state.follows = false;
  await replica.check();
  expect([replica.ageMs, replica.lagSeconds]).toEqual([Number.POSITIVE_INFINITY, 0.6]);

  state.follows = true;
  await replica.check();
  expect(replica.ageMs).toBe(0);
  state.replayed = undefined;
  await expect(replica.check()).rejects.toBeInstanceOf(DatabaseError);
  expect(replica.ageMs).toBe(Number.POSITIVE_INFINITY);
});

function givenReader(ageMs: number, inReplica: () => Promise<ReadResult<Snapshot>>) {
  const sources: string[] = [];
  let doubted = 0;
  const reader = new Reader({
    primary: {
      readEvents: async (ids) => ids.map(() => ({ outcome: "found", value: snapshot(9) })),
      listEvents: async () => [snapshot(9).event],
    },
    replicas: [
      {
        replica: { ageMs, doubt: () => void (doubted += 1) },
        store: {
          readEvents: async (ids) => Promise.all(ids.map(inReplica)),
          listEvents: async () => [snapshot(8).event],
        },
      },
    ],
    lagMaxMs: 500,
    read: (source) => sources.push(source),
  });
  return { reader, sources, doubted: () => doubted };
}

test("P2: each read goes to the replica only when that is fresh enough for it", async () => {
  const found = async (): Promise<ReadResult<Snapshot>> => ({ outcome: "found", value: snapshot(8) });
  const { reader, sources } = givenReader(100, found);

  expect(await reader.readEvents([ID, OTHER], [101, 100])).toEqual([
    { outcome: "found", value: snapshot(8), ageMs: 100 },
    { outcome: "found", value: snapshot(9) },
  ]);
  expect(sources.toSorted()).toEqual(["primary", "replica"]);
  expect(await reader.readEvents([ID])).toEqual([{ outcome: "found", value: snapshot(9) }]);
  expect(await reader.listEvents(null, 10, 101)).toEqual({ events: [snapshot(8).event], ageMs: 100 });
  expect(await reader.listEvents(null, 10, 100)).toEqual({ events: [snapshot(9).event] });

  const { reader: behind } = givenReader(501, found);
  expect(await behind.readEvents([ID], [60_000])).toEqual([{ outcome: "found", value: snapshot(9) }]);
});

test.each<{ what: string; answer: () => Promise<ReadResult<Snapshot>>; doubts: number }>([
  { what: "has no such event", answer: async () => ({ outcome: "absent" }), doubts: 0 },
  {
    what: "says that the slot is another shard's",
    answer: async () => ({ outcome: "wrong_shard" }),
    doubts: 0,
  },
  { what: "fails", answer: async () => Promise.reject(new DatabaseError("refused", "conflict")), doubts: 1 },
])("P2: the primary is asked when the replica $what", async ({ answer, doubts }) => {
  const { reader, doubted } = givenReader(0, answer);

  expect(await reader.readEvents([ID], [1_000])).toEqual([{ outcome: "found", value: snapshot(9) }]);

  expect(doubted()).toBe(doubts);
});

function givenCache(answer: (notBefore: number) => ReadResult<Snapshot>, eventsMax = 100) {
  const clock = stoppedClock();
  const asked: number[] = [];
  const filled: Snapshot[] = [];
  const cache = new EventCache({
    eventsMax,
    clock,
    redis: { up: true, read: async () => undefined, fill: async (value) => void filled.push(value) },
    loadFromShard: async (_id, notBefore) => {
      asked.push(notBefore);
      return answer(notBefore);
    },
    counted: () => undefined,
  });
  return { cache, clock, asked, filled };
}

test("P2 C3: what a replica said is fresh for less, by its age, and is not kept in Redis", async () => {
  const { cache, clock, filled } = givenCache(() => ({ outcome: "found", value: snapshot(1), ageMs: 300 }));

  expect(await cache.read(ID)).toMatchObject({ outcome: "found", tier: "shard" });

  clock.time += 499;
  expect(cache.fresh(ID)).toBeDefined();
  clock.time += 1;
  expect(cache.fresh(ID)).toBeUndefined();
  expect(filled).toEqual([]);
});

test("P2 C5: sold out is said on the primary's word only", async () => {
  const soldOut = snapshot(2, { availableTickets: 0 });
  const { cache, clock, asked } = givenCache((notBefore) => ({
    outcome: "found",
    value: soldOut,
    ...(notBefore === Number.POSITIVE_INFINITY ? {} : { ageMs: 0 }),
  }));
  await cache.read(ID);
  expect(cache.isSoldOut(ID)).toBe(false);

  cache.learn([soldOut], clock.time);
  clock.time += 130;
  expect(cache.isSoldOut(ID)).toBe(true);
  expect(asked.at(-1)).toBe(Number.POSITIVE_INFINITY);
});

test("P2 C1: a replica must have all that was known here of an event, also of one that memory has let go", async () => {
  const { cache, clock, asked } = givenCache(() => ({ outcome: "found", value: snapshot(1), ageMs: 0 }), 1);
  await cache.read(ID);
  expect(asked).toEqual([Number.NEGATIVE_INFINITY]);

  const written = (clock.time += 10);
  cache.learn([snapshot(2)], clock.time);
  clock.time += 900;
  await cache.read(ID);
  expect(asked.at(-1)).toBe(written);

  const other = snapshot(1);
  cache.learn([{ ...other, event: { ...other.event, id: OTHER } }], clock.time);
  expect(cache.forgottenUntil).toBe(written);
  await cache.read(ID);
  expect(asked.at(-1)).toBe(written);
});

test("P2 C1: what was written while a replica answered, and was let go again, is read from the primary", async () => {
  const { cache, clock, asked } = givenCache((notBefore) => {
    if (notBefore === Number.POSITIVE_INFINITY) return { outcome: "found", value: snapshot(2) };
    clock.time += 5;
    const written = snapshot(2);
    cache.learn([written, { ...written, event: { ...written.event, id: OTHER } }], clock.time);
    return { outcome: "found", value: snapshot(1), ageMs: 3 };
  }, 1);

  const read = await cache.read(ID);

  expect(read.outcome === "found" && read.event.snapshot.event.version).toBe(2);
  expect(asked).toEqual([Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY]);
});

test("P2 C1: an event in a list is shown as it is known here", () => {
  const { cache, clock } = givenCache(() => ({ outcome: "absent" }));
  cache.learn([snapshot(5)], clock.time);

  expect(cache.newest(snapshot(4).event).version).toBe(5);
  expect(cache.newest(snapshot(6).event).version).toBe(6);
});
