import { afterEach, describe, expect, onTestFinished, test, vi } from "vitest";
import { chooseFreePort } from "../../deploy/embedded/ports.ts";
import { systemClock } from "../../shared/process/clock.ts";
import type { UserId } from "../../shared/domain/ids.ts";
import { createLog } from "../../shared/process/log.ts";
import { RedisConnection } from "../../shared/redis/redis.ts";
import type { Caller, Role } from "../../router/callers/tokens.ts";
import { eventually } from "../support/eventually.ts";
import { findRedisServer, startRedisServer } from "../support/redis.ts";
import {
  createWriteLimits,
  type Limited,
  type WriteLimits,
  type WriteLimitSettings,
} from "../../router/callers/write-limits.ts";

const log = createLog("test", "silent");
const HOME = "198.51.100.1";
const caller = (userId: string, role: Role = "buyer"): Caller => ({
  userId: userId as UserId,
  role,
  expiresAt: Infinity,
});
const limitsOf = (settings: WriteLimitSettings, clock = systemClock) => {
  const limits = createWriteLimits(settings, clock, log, () => undefined);
  onTestFinished(() => limits.close());
  return limits;
};

/** So many writes, one after the other; what became of each. */
async function write(
  limits: WriteLimits,
  count: number,
  who: (index: number) => string,
  address?: string,
): Promise<(Limited | undefined)[]> {
  const all: (Limited | undefined)[] = [];
  for (let index = 0; index < count; index += 1) all.push(await limits.admit(caller(who(index)), address));
  return all;
}
const admitted = (all: readonly (Limited | undefined)[]) => all.filter((each) => each === undefined).length;
const ann = () => "ann";
const everybody = (index: number) => `buyer-${index}`;

afterEach(() => vi.useRealTimers());
/** Nothing happens between two writes then. */
const stopTime = () => vi.useFakeTimers({ toFake: ["Date", "performance", "setTimeout", "clearTimeout"] });

test("S6: a buyer writes so often in a second and no more, and in the next second again", async () => {
  stopTime();
  for (const perUser of [1, 2, 3, 4, 5, 20, 1_000]) {
    const limits = limitsOf({ perUser, perOrganizer: 0, perAddress: 0 });
    for (let second = 0; second < 3; second += 1) {
      const answers = await write(limits, perUser * 2, ann, HOME);
      expect([perUser, admitted(answers)]).toEqual([perUser, perUser]);
      expect(answers.slice(0, perUser)).toEqual(Array.from({ length: perUser }));
      expect(admitted(await write(limits, 1, () => "bob", HOME))).toBe(1);
      vi.advanceTimersByTime(1_000);
    }
  }
});

test("S6: writes that arrive together are counted one by one", async () => {
  const limits = limitsOf({ perOrganizer: 0, perUser: 20, perAddress: 0 });
  const together = Array.from({ length: 500 }, async () => limits.admit(caller("ann"), HOME));
  expect(admitted(await Promise.all(together))).toBe(20);
});

test("S6: an address writes so often in a second, whoever its buyers are, and a buyer who is refused does not use that up", async () => {
  stopTime();
  const limits = limitsOf({ perOrganizer: 0, perUser: 10, perAddress: 100 });
  expect(admitted(await write(limits, 1_000, ann, HOME))).toBe(10);
  const answers = await write(limits, 200, everybody, HOME);
  expect(admitted(answers)).toBe(90);
  expect(admitted(await write(limits, 50, everybody, "198.51.100.2"))).toBe(50);
  // Nobody knows where they are.
  expect(admitted(await write(limits, 1_000, everybody, undefined))).toBe(1_000);
});

test("S6: a refusal says in its headers which limit it was, and when it is over", async () => {
  const limits = limitsOf({ perOrganizer: 0, perUser: 5, perAddress: 12 });
  expect((await write(limits, 6, ann, HOME)).at(-1)).toEqual({
    reason: "user",
    headers: { "retry-after": "1", ratelimit: '"user";r=0;t=1', "ratelimit-policy": '"user";q=5;w=1' },
  });
  expect((await write(limits, 20, everybody, HOME)).at(-1)).toEqual({
    reason: "address",
    headers: { "retry-after": "1", ratelimit: '"address";r=0;t=1', "ratelimit-policy": '"address";q=12;w=1' },
  });
});

test("S6: organizers have a limit of their own, and share that of the address with buyers", async () => {
  stopTime();
  const limits = limitsOf({ perUser: 5, perOrganizer: 20, perAddress: 50 });
  const organize = async (count: number, who: string, address?: string) => {
    const all: (Limited | undefined)[] = [];
    for (let index = 0; index < count; index += 1)
      all.push(await limits.admit(caller(who, "organizer"), address));
    return all;
  };
  const answers = await organize(40, "ann", HOME);
  expect(admitted(answers)).toBe(20);
  expect(answers.at(-1)).toEqual({
    reason: "organizer",
    headers: {
      "retry-after": "1",
      ratelimit: '"organizer";r=0;t=1',
      "ratelimit-policy": '"organizer";q=20;w=1',
    },
  });
  // As a buyer the same user has another limit.
  expect(admitted(await write(limits, 10, ann, HOME))).toBe(5);
  expect(admitted(await write(limits, 100, everybody, HOME))).toBe(25);
  expect((await organize(1, "bob", HOME))[0]?.reason).toBe("address");
  expect(admitted(await organize(40, "cyd"))).toBe(20);
});

test("S6: operators are not limited, and 0 is no limit", async () => {
  const limits = limitsOf({ perUser: 5, perOrganizer: 5, perAddress: 5 });
  for (let index = 0; index < 100; index += 1)
    expect(limits.admit(caller("op", "operator"), HOME)).toBe(undefined);
  const none = limitsOf({ perUser: 0, perOrganizer: 0, perAddress: 0 });
  expect(admitted(await write(none, 1_000, ann, HOME))).toBe(1_000);
  for (let index = 0; index < 1_000; index += 1)
    expect(none.admit(caller("org", "organizer"), HOME)).toBe(undefined);
});

test("S6: in a rush in which everybody writes once, nobody waits, and the limits cost next to nothing", () => {
  const limits = limitsOf({ perOrganizer: 0, perUser: 20, perAddress: 500 });
  const buyers = Array.from({ length: 100_000 }, (_, index) => caller(`buyer-${index}`));
  const addresses = buyers.map((_, index) => `203.0.${index % 97}.${index % 251}`);
  const before = process.cpuUsage();
  const asked = buyers.filter((buyer, index) => limits.admit(buyer, addresses[index]) !== undefined);
  const { user, system } = process.cpuUsage(before);
  const each = (user + system) / buyers.length;

  console.log(
    `write limits: ${each.toFixed(2)} µs of processor time a write, ${asked.length} of 100,000 counted exactly`,
  );
  // They wrote within one second or two: more than can be, and still next to nobody shares a place with five others.
  expect(asked.length).toBeLessThan(1_000);
  // Some 1 µs on a quiet machine. A busy one empties the processor's caches.
  expect(each).toBeLessThan(20);
});

describe.skipIf(findRedisServer() === undefined)("with Redis", () => {
  /** A Redis of the test's own, which it may stop and kill. */
  async function startRedis() {
    const port = await chooseFreePort(new Set());
    const redis = await startRedisServer(port);
    onTestFinished(async () => redis[Symbol.asyncDispose]());
    const url = `redis://127.0.0.1:${port}`;
    const witness = new RedisConnection(url, log, "", () => undefined);
    onTestFinished(() => witness.close());
    await eventually("Redis is there", () => witness.up);
    return { url, redis, witness };
  }

  /** Limits that have a connection, which a write of somebody shows. */
  async function connected(settings: WriteLimitSettings, witness: RedisConnection): Promise<WriteLimits> {
    // No second ends in the middle of a test.
    const limits = limitsOf(settings, { now: () => 0, elapsed: () => 0 });
    let tries = 0;
    await eventually("the limits count in Redis", async () => {
      const before = (await witness.client.keys("{onsale}:1:writes:*")).length;
      const name = `first-${performance.now()}-${(tries += 1)}`;
      await write(limits, settings.perUser, () => name);
      return (await witness.client.keys("{onsale}:1:writes:*")).length > before;
    });
    return limits;
  }

  test("S6: two routers admit the limit together, and what one of them need not count", async () => {
    const { url, witness } = await startRedis();
    const settings = { perOrganizer: 0, perUser: 100, perAddress: 0, redisUrl: url };
    const routers = [await connected(settings, witness), await connected(settings, witness)];
    let count = 0;
    for (let round = 0; round < 100; round += 1) {
      for (const limits of routers) count += admitted(await write(limits, 1, ann));
      // Redis has heard of it, and so have they.
      await witness.client.ping();
    }
    expect(count).toBeGreaterThanOrEqual(100);
    expect(count).toBeLessThan(100 + 25 + 25);
  });

  test("S6 F4: a Redis that hangs, or is gone, delays no write and lifts no limit", async () => {
    const { url, redis, witness } = await startRedis();
    const limits = await connected({ perOrganizer: 0, perUser: 20, perAddress: 0, redisUrl: url }, witness);
    const holds = async (who: string) => {
      const started = performance.now();
      const answers = await write(limits, 500, () => who);
      expect([who, admitted(answers)]).toEqual([who, 20]);
      // A command is given up after 200 ms. Had each admitted write waited for one, these would have taken 4 s.
      expect(performance.now() - started).toBeLessThan(2_000);
    };
    await holds("before");
    redis.signal("SIGSTOP");
    await holds("paused");
    await holds("still-paused");
    redis.signal("SIGCONT");
    await redis[Symbol.asyncDispose]();
    await holds("gone");
  });
});
