import { expect, test } from "vitest";
import {
  newBookingId,
  newEventId,
  parseBookingId,
  parseEventId,
  type IdempotencyKey,
  type ShardId,
  slotOfBooking,
  timeOf,
  type UserId,
} from "../../shared/domain/ids.ts";
import { ownerOf } from "../../shared/domain/shard-map.ts";
import { newEventIdFor, SLOT_COUNT, type Slot, slotOf } from "../../shared/domain/slots.ts";
import { rangesOf, readShardMap } from "../../shared/wire/shard-map.ts";
import { tally } from "../support/running-cluster.ts";

test("R1: the slot of an event is what it has always been", () => {
  // Golden values: a change of any of them would send requests to shards that do not have the event.
  const golden = {
    "00000000-0000-0000-0000-000000000000": 3540,
    "01a20409-0c00-7c2b-af63-0abca586c6cb": 2002,
    "0190a0b0-1111-7abc-8def-0123456789ab": 115,
    "ffffffff-ffff-ffff-ffff-ffffffffffff": 2286,
    "f47ac10b-58cc-4372-a567-0e02b2c3d479": 777,
    "123e4567-e89b-12d3-a456-426614174000": 2718,
  };
  for (const [id, slot] of Object.entries(golden)) {
    expect([id, slotOf(parseEventId(id) ?? ("" as never))]).toEqual([id, slot]);
    expect(slotOf(parseEventId(id.toUpperCase()) ?? ("" as never))).toBe(slot);
  }
});

test("R1: slots are dealt evenly over events", () => {
  const counts = tally(Array.from({ length: 40_960 }, () => slotOf(newEventId(Date.now())) % 8));
  for (const count of Object.values(counts)) expect(Math.abs(count - 5_120)).toBeLessThan(500);
});

test("R1: a booking id is a UUIDv7 that carries its slot, for every slot", () => {
  for (let slot = 0; slot < SLOT_COUNT; slot += 1) {
    const id = newBookingId(slot as Slot, 1_795_000_000_000);
    expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    expect(slotOfBooking(parseBookingId(id.toUpperCase()) ?? id)).toBe(slot);
    expect(timeOf(id as never)).toBe(1_795_000_000_000);
  }
});

test("R1 B12: all new event ids under an organizer's key are of one slot, which differs from key to key", () => {
  const idOf = (key: string, nowMs: number) => newEventIdFor("ada" as UserId, key as IdempotencyKey, nowMs);
  const first = idOf("the key", 1_795_000_000_000);
  const later = idOf("the key", 1_795_000_000_001);

  expect(first).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  expect(timeOf(first)).toBe(1_795_000_000_000);
  expect(later > first).toBe(true);
  // A golden value: another hash would look for a key's event on another shard.
  expect([slotOf(first), slotOf(later)]).toEqual([3814, 3814]);
  expect(
    new Set(Array.from({ length: 20 }, (_, each) => slotOf(idOf(`key ${each}`, 0)))).size,
  ).toBeGreaterThan(15);
});

test("R2: a map that leaves a slot without an owner, or gives it two, is refused", () => {
  const map = (...slotRanges: [number, number][][]) =>
    readShardMap({
      version: 1,
      shards: slotRanges.map((ranges, index) => ({
        id: `s${index}` as ShardId,
        nodeUrls: [],
        slotRanges: ranges,
      })),
    });
  const whole = map([[0, 2047]], [[2048, 4095]]);
  expect(whole && ownerOf(whole, 2047 as Slot)).toBe("s0");
  expect(whole && ownerOf(whole, 2048 as Slot)).toBe("s1");
  expect(map([[0, 2046]], [[2048, 4095]])).toBeUndefined();
  expect(map([[0, 2048]], [[2048, 4095]])).toBeUndefined();
  expect(map([[0, 4096]])).toBeUndefined();
  expect(rangesOf([0, 1, 2, 5, 7, 8])).toEqual([
    [0, 2],
    [5, 5],
    [7, 8],
  ]);
});
