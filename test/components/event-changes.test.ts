/** Changes of an event whose row somebody else has locked, and of others (shard-node/decide/event-changes.ts). */
import { expect, test } from "vitest";
import { EventChanges } from "../../shard-node/decide/event-changes.ts";
import { DatabaseError, LOCK_NOT_AVAILABLE } from "../../shared/database/faults.ts";
import { newEventId } from "../../shared/domain/ids.ts";
import type { EventResult } from "../../shared/wire/rpc.ts";
import { stoppedClock } from "../support/clock.ts";

const [ONE, OTHER] = [newEventId(1), newEventId(2)];
const SAVED: EventResult = { outcome: "event_not_found" };
const OVERLOADED = { outcome: "overloaded" };

function given() {
  const clock = stoppedClock();
  const asked: string[] = [];
  let refused = 0;
  const changes = new EventChanges(clock, () => (refused += 1));
  const change = async (name: string, event = ONE, fault?: Error) =>
    changes.run(event, async () => {
      asked.push(name);
      await Promise.resolve();
      asked.push(`${name} ends`);
      if (fault !== undefined) throw fault;
      return SAVED;
    });
  return { clock, asked, change, refused: () => refused };
}

const locked = () => new DatabaseError("refused", "the lock was not had", { sqlState: LOCK_NOT_AVAILABLE });

test("L4: changes of one event run one after another, and those of another beside them", async () => {
  const { asked, change } = given();
  expect(await Promise.all([change("a"), change("b"), change("c", OTHER)])).toEqual([SAVED, SAVED, SAVED]);
  expect(asked.filter((name) => !name.startsWith("c"))).toEqual(["a", "a ends", "b", "b ends"]);
  expect(asked.indexOf("c")).toBeLessThan(asked.indexOf("a ends"));
});

test("L4: an event whose lock was not had rests for a second, with all changes that wait, and no other event does", async () => {
  const { clock, asked, change, refused } = given();
  const results = await Promise.all([change("a", ONE, locked()), change("b"), change("c", OTHER)]);
  expect(results).toEqual([OVERLOADED, OVERLOADED, SAVED]);
  expect(asked).not.toContain("b");
  clock.time += 999;
  expect(await change("d")).toEqual(OVERLOADED);
  expect(refused()).toBe(3);
  clock.time += 2;
  expect(await change("e")).toEqual(SAVED);
});

test("L4: another fault passes, and lets the next change begin", async () => {
  const { change } = given();
  const fault = new DatabaseError("lost", "the connection broke");
  const [first, second] = await Promise.allSettled([change("a", ONE, fault), change("b")]);
  expect(first).toMatchObject({ status: "rejected", reason: fault });
  expect(second).toMatchObject({ status: "fulfilled", value: SAVED });
});
