/**
 * Changes of slot owners of which one overtakes another. The lock that keeps them apart is gone with the connection that
 * held it, and a proxy holds the first change up at one of its steps while the second one runs.
 */
import { expect, test } from "vitest";
import { audit } from "../../audit/audit.ts";
import { moveEmptySlot, settleRestoredShard, settleShards } from "../../migrations/shards.ts";
import { newEventId, type ShardId } from "../../shared/domain/ids.ts";
import { type Slot, slotOf } from "../../shared/domain/slots.ts";
import { administer, connectTo, createDatabase } from "../support/databases.ts";
import { startFaultyProxy } from "./faulty-proxy.ts";

const [ZERO, ONE] = ["shard-0" as ShardId, "shard-1" as ShardId];
/** Dealt to shard-0. */
const SLOT = 17 as Slot;

const moveTo = (to: ShardId) => async (owners: SlotOwners) => moveEmptySlot(owners.catalogUrl, SLOT, to);
const migrate = async (owners: SlotOwners) => void (await settleShards(owners.catalogUrl, owners.shards));
const afterRestore = async (owners: SlotOwners) => void (await settleRestoredShard(owners.catalogUrl, ZERO));

interface Overtaking {
  readonly first: string;
  readonly change: (owners: SlotOwners) => Promise<void>;
  /** The step at which it is held up: the request to this shard, or, once the shard has done it, its answer. */
  readonly heldUp: readonly ["request" | "answer", ShardId, "release_slots" | "acquire_slots"];
  readonly second: string;
  readonly overtaking: (owners: SlotOwners) => Promise<void>;
  /** Who owns the slot after the second, and after the first was refused. */
  readonly owner: ShardId;
}

const AFTER_MIGRATION = { second: "a migration", overtaking: migrate, owner: ZERO };
const AFTER_MOVE = { second: "a move", overtaking: moveTo(ONE), owner: ONE };
const MOVE = { first: "a move", change: moveTo(ONE) };
const MIGRATION = { first: "a migration", change: migrate };
const SETTLING = { first: "the settling of a restored shard", change: afterRestore };

const OVERTAKINGS: readonly Overtaking[] = [
  { ...MOVE, heldUp: ["request", ZERO, "release_slots"], ...AFTER_MIGRATION },
  { ...MOVE, heldUp: ["answer", ZERO, "release_slots"], ...AFTER_MIGRATION },
  {
    ...MOVE,
    heldUp: ["request", ONE, "acquire_slots"],
    second: "the move back",
    overtaking: moveTo(ZERO),
    owner: ZERO,
  },
  { ...MIGRATION, heldUp: ["request", ZERO, "acquire_slots"], ...AFTER_MOVE },
  { ...MIGRATION, heldUp: ["request", ONE, "release_slots"], ...AFTER_MOVE },
  { ...SETTLING, heldUp: ["request", ZERO, "acquire_slots"], ...AFTER_MOVE },
  {
    ...MIGRATION,
    heldUp: ["request", ZERO, "acquire_slots"],
    second: "a move, and the restore of a shard to a moment before both",
    overtaking: async (owners) => {
      await moveTo(ONE)(owners);
      await administer(owners.databaseOf(ZERO), "update slots_token set token = 0");
      await administer(owners.databaseOf(ZERO), `insert into owned_slots values (${SLOT}, 0)`);
      await afterRestore(owners);
    },
    owner: ONE,
  },
];

test.for(OVERTAKINGS)(
  "R3: $first held up at the $heldUp is refused after $second, and one shard owns the slot",
  async ({ change, heldUp: [kept, shard, step], overtaking, owner }) => {
    await using owners = await givenOwners();
    const request = owners.intercept(shard, step);
    const outcome = change(owners).then(
      () => "done",
      (error: Error) => error.message,
    );
    const held = await request;
    if (kept === "answer") await held.deliver();
    await owners.loseLock();

    await overtaking(owners);
    expect(await owners.of(SLOT)).toEqual([owner, owner]);
    if (kept === "request") await held.deliver();
    held.answer();

    expect(await outcome).toMatch(/another change of slot owners has begun since; run this one again$/);
    expect(await owners.of(SLOT)).toEqual([owner, owner]);
    expect((await audit(owners.catalogUrl)).violations).toEqual([]);
    await change(owners);
    expect((await audit(owners.catalogUrl)).violations).toEqual([]);
  },
);

test("R3: the next migration gives a slot to whom the catalog names, wherever a move was interrupted", async () => {
  for (const [shard, step, isDone, owner] of [
    [ZERO, "release_slots", false, ZERO],
    [ZERO, "release_slots", true, ZERO],
    [ONE, "acquire_slots", false, ONE],
    [ONE, "acquire_slots", true, ONE],
  ] as const) {
    await using owners = await givenOwners();
    const request = owners.intercept(shard, step);
    const outcome = moveTo(ONE)(owners).then(
      () => "done",
      (error: Error) => error.message,
    );
    const held = await request;
    if (isDone) await held.deliver();
    held.cut();
    expect(await outcome).toMatch(/^shard-\d: Connection terminated/);
    expect((await owners.of(SLOT)).length).toBeLessThanOrEqual(2);

    await migrate(owners);

    expect(await owners.of(SLOT)).toEqual([owner, owner]);
    expect((await audit(owners.catalogUrl)).violations).toEqual([]);
  }
});

test("R2 R3: a catalog that lost its last commits takes a slot back only while it is empty, and makes newer maps", async () => {
  await using owners = await givenOwners();
  const loseMove = async () => {
    const version = await owners.mapVersion();
    await moveTo(ONE)(owners);
    const lost = await owners.mapVersion();
    await administer(owners.catalogUrl, `update slots set shard_id = '${ZERO}' where slot = ${SLOT}`);
    await administer(owners.catalogUrl, `update map_version set version = ${version}`);
    expect(await owners.of(SLOT)).toEqual([ZERO, ONE]);
    return lost;
  };

  const lost = await loseMove();
  await migrate(owners);
  expect(await owners.of(SLOT)).toEqual([ZERO, ZERO]);
  expect(await owners.mapVersion()).toBeGreaterThan(lost);

  await loseMove();
  let id = newEventId(Date.now());
  while (slotOf(id) !== SLOT) id = newEventId(Date.now());
  await administer(
    owners.databaseOf(ONE),
    `select create_event('${id}', ${SLOT}::smallint, 'Concert', null, now() + interval '1 day', null, null, 5, 2, now())`,
  );
  await expect(migrate(owners)).rejects.toThrow(/^shard-1: slot 17 holds events$/);
  expect(await owners.of(SLOT)).toEqual([ZERO, ONE]);
});

type SlotOwners = Awaited<ReturnType<typeof givenOwners>>;

/** A catalog and two shards, which are reached through a proxy each. */
async function givenOwners() {
  await using stack = new AsyncDisposableStack();
  const catalog = stack.use(await createDatabase("catalog"));
  const databases = new Map<ShardId, string>();
  const proxies = new Map<ShardId, Awaited<ReturnType<typeof startFaultyProxy>>>();
  for (const id of [ZERO, ONE]) {
    const database = stack.use(await createDatabase("shard"));
    databases.set(id, database.url);
    proxies.set(id, stack.use(await startFaultyProxy(database.url)));
  }
  const shards = [...proxies].map(([id, { url }]) => ({ id, databaseUrl: url }));
  await settleShards(catalog.url, shards);
  const disposables = stack.move();
  const databaseOf = (id: ShardId) => databases.get(id) ?? "";
  return {
    catalogUrl: catalog.url,
    shards,
    databaseOf,
    /** The next request to this shard that contains `text` goes nowhere by itself. */
    intercept: async (id: ShardId, text: string) => {
      const proxy = proxies.get(id);
      if (proxy === undefined) throw new Error(`no proxy for ${id}`);
      return proxy.intercept(text);
    },
    /** Ends the catalog's connection of who is changing owners, and so its lock. */
    loseLock: async () =>
      administer(
        catalog.url,
        `select pg_terminate_backend(pid, 5000) from pg_stat_activity
         where datname = current_database() and application_name = 'onsale-migrate'`,
      ),
    /** Who owns a slot: as the catalog says, and then the shards that say so themselves. */
    of: async (slot: Slot) => {
      const assigned = await select(catalog.url, `select shard_id as value from slots where slot = ${slot}`);
      const owning: unknown[] = [];
      for (const id of [ZERO, ONE]) {
        const rows = await select(
          databaseOf(id),
          `select slot as value from owned_slots where slot = ${slot}`,
        );
        if (rows.length > 0) owning.push(id);
      }
      return [...assigned, ...owning];
    },
    mapVersion: async () =>
      Number((await select(catalog.url, "select version as value from map_version"))[0]),
    [Symbol.asyncDispose]: async () => disposables.disposeAsync(),
  };
}

async function select(url: string, statement: string): Promise<unknown[]> {
  using connection = connectTo(url);
  return (await connection.run<{ value: unknown }>(statement)).map(({ value }) => value);
}
