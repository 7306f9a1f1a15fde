/** The calls of followers of the log, with a log that the test writes. */
import { expect, test } from "vitest";
import { Followers, FOLLOWERS_MAX } from "../../shard-node/read/followers.ts";
import type { Change } from "../../shared/domain/changes.ts";
import { ANSWER_BOOKINGS_MAX, type CopyRequest } from "../../shared/wire/rpc.ts";
import { stoppedClock } from "../support/clock.ts";
import { eventually } from "../support/eventually.ts";

const AS_OF = "2031-01-01T00:00:00.000Z";
const FOREVER = { follower: "reader", waitMs: 10_000_000 };

test("J4: a follower waits for the next change, also for one that this node did not make", async () => {
  const { followers, log } = given();
  const first = followers.follow({ ...FOREVER, after: 0 });
  await eventually("it waits", () => log.reads === 1);
  log.write();
  followers.changed();
  expect(await first).toMatchObject({ outcome: "changes", changes: [{ position: 1 }], position: 1 });

  const second = followers.follow({ ...FOREVER, after: 1 });
  await eventually("it waits", () => log.reads >= 3);
  log.write();
  expect(await second).toMatchObject({ changes: [{ position: 2 }], position: 2 });
  expect(log.bookingsMax).toBe(ANSWER_BOOKINGS_MAX);
});

test("J4: who only asks for the end of the log, or has waited long enough, is answered", async () => {
  const { followers, log, clock } = given();
  log.write();
  expect(await followers.follow({ ...FOREVER, after: null })).toMatchObject({ changes: [], position: 1 });
  const waiting = followers.follow({ follower: "reader", after: 1, waitMs: 5_000 });
  await eventually("it waits", () => log.reads >= 3);
  clock.time += 5_000;
  expect(await waiting).toMatchObject({ outcome: "changes", changes: [], position: 1 });
});

test("J4 F2: few followers wait at once, one more is refused and counted, and they read one at a time", async () => {
  const { followers, log, shed } = given();
  const waiting = Array.from({ length: FOLLOWERS_MAX }, async () =>
    followers.follow({ ...FOREVER, after: 0 }),
  );
  await eventually("all wait", () => log.reads >= FOLLOWERS_MAX);

  expect(await followers.follow({ follower: "one more", after: 0, waitMs: 0 })).toEqual({
    outcome: "overloaded",
  });
  expect(shed).toEqual(["followers_full"]);
  expect(followers.open).toBe(FOLLOWERS_MAX);
  log.write();
  followers.changed();
  for (const answer of await Promise.all(waiting)) expect(answer).toMatchObject({ position: 1 });
  expect(followers.open).toBe(0);
  expect(log.mostAtOnce).toBe(1);
});

test("J3 J4: a follower whose position was dropped is told, and so is one whose read fails", async () => {
  const { followers, log } = given();
  log.dropped = true;
  expect(await followers.follow({ ...FOREVER, after: 0 })).toEqual({ outcome: "position_dropped" });
  log.fails = true;
  await expect(followers.follow({ ...FOREVER, after: 0 })).rejects.toThrow("away");
  log.fails = log.dropped = false;
  log.write();
  expect(await followers.follow({ ...FOREVER, after: 0 })).toMatchObject({ position: 1 });
});

test("J4: the lag is the age of the oldest change that the slowest follower has not asked beyond", async () => {
  const { followers, log, clock } = given();
  expect(followers.lagSeconds).toBe(0);
  log.write();
  log.lagSeconds = 3;
  await followers.follow({ ...FOREVER, follower: "slow", after: 0 });
  await followers.follow({ ...FOREVER, follower: "quick", after: null });
  clock.time += 2_000;
  expect(followers.lagSeconds).toBe(5);

  log.lagSeconds = 0;
  await followers.follow({ follower: "slow", after: 1, waitMs: 0 });
  expect(followers.lagSeconds).toBe(0);
  log.lagSeconds = 1;
  await followers.follow({ follower: "slow", after: 0, waitMs: 0 });
  clock.time += 60_000;
  expect(followers.lagSeconds).toBe(61);
  // It follows another node now.
  clock.time += 61_000;
  expect(followers.lagSeconds).toBe(0);
});

test("J4 F5: a node that stops lets no follower wait", async () => {
  const { followers, log } = given();
  const waiting = followers.follow({ ...FOREVER, after: 0 });
  await eventually("it waits", () => log.reads === 1);
  followers.close();
  expect(await waiting).toMatchObject({ outcome: "changes", changes: [], position: 0 });
  expect(await followers.follow({ ...FOREVER, after: 0 })).toEqual({ outcome: "shard_unavailable" });
});

function given() {
  const clock = stoppedClock();
  const shed: string[] = [];
  const written: Change[] = [];
  let atOnce = 0;
  const log = {
    reads: 0,
    mostAtOnce: 0,
    bookingsMax: 0,
    lagSeconds: 0,
    dropped: false,
    fails: false,
    write: () =>
      void written.push({
        position: written.length + 1,
        at: "2031-01-01T00:00:00.000Z",
        events: [],
        event: null,
        bookings: [],
      }),
  };
  const readChanges = async (after: number | null, bookingsMax: number) => {
    atOnce += 1;
    log.mostAtOnce = Math.max(log.mostAtOnce, atOnce);
    await new Promise(setImmediate);
    atOnce -= 1;
    log.reads += 1;
    log.bookingsMax = bookingsMax;
    if (log.fails) throw new Error("away");
    if (log.dropped) return { dropped: true as const };
    const changes = written.filter(({ position }) => after !== null && position > after);
    const position = after === null ? written.length : (changes.at(-1)?.position ?? after);
    const lagSeconds = after === null ? 0 : log.lagSeconds;
    return { dropped: false as const, changes, position, asOf: AS_OF, lagSeconds };
  };
  const copy = async ({ after }: CopyRequest) => {
    atOnce += 1;
    log.mostAtOnce = Math.max(log.mostAtOnce, atOnce);
    await new Promise(setImmediate);
    atOnce -= 1;
    return { outcome: "copied" as const, events: [], bookings: [], next: after };
  };
  const followers = new Followers({ readChanges, copy }, clock, {
    shed: (reason) => void shed.push(reason),
    changesGiven: () => undefined,
  });
  return { followers, log, clock, shed };
}
