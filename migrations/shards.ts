/**
 * Which shards there are and which slots they own: the first migration of a cluster deals the slots out evenly, a shard
 * added later owns nothing, and an empty slot can be moved.
 */
import { Database, DatabaseError, LOCK_NOT_AVAILABLE, type Statement } from "../shared/postgres.ts";
import type { ShardId } from "../shared/ids.ts";
import { SLOT_COUNT, type Slot } from "../shared/slots.ts";

export interface ShardDatabase {
  readonly id: ShardId;
  readonly databaseUrl: string;
}

const REGISTER: Statement = {
  name: "register-shards",
  text: `
    insert into shards (id, database_url)
    select * from unnest($1::text[], $2::text[])
    on conflict (id) do update set database_url = excluded.database_url`,
};

// Only into an empty table: a map that exists is changed by moving slots, never dealt anew.
const DEAL: Statement = {
  name: "deal-slots",
  text: `
    with dealt as (
      insert into slots (slot, shard_id)
      select slot, ($1::text[])[slot * cardinality($1::text[]) / ${SLOT_COUNT} + 1]
      from generate_series(0, ${SLOT_COUNT - 1}) as slot
      where not exists (select from slots)
      on conflict do nothing
      returning slot
    )
    update map_version set version = 1 where (select count(*) from dealt) = ${SLOT_COUNT}`,
};

const OWNERS: Statement = {
  name: "slot-owners",
  text: `
    select s.id, s.database_url as "databaseUrl",
           array(select slot from slots where shard_id = s.id order by slot)::integer[] as slots,
           (select version from map_version)::integer as version
    from shards s order by s.id`,
};

// The catalog says what a shard owns; a shard that was away when it was dealt its slots learns of them here.
const GRANT: Statement = {
  name: "grant-slots",
  text: `select acquire_slot(slot, $2) from unnest($1::smallint[]) as slot
         where slot not in (select slot from owned_slots)`,
};

// B9, C2: whatever was said of an event before, by this history of the shard or another one, has a lower version. So every
// cache takes the event as it is now, without a restart, and no ETag means two things. Milliseconds rise faster than batches
// can raise a version, so this also holds when a shard is restored a second time, from a backup made before the first.
const RAISE_VERSIONS: Statement = {
  name: "raise-versions",
  text: `
    with raised as (
      update events set version = greatest(version + 1, (extract(epoch from clock_timestamp()) * 1000)::bigint)
      returning id
    )
    select count(*)::integer as events from raised`,
};

// What it gave away after that moment was empty then, too.
const RELEASE: Statement = {
  name: "release-slots",
  text: "select release_slot(slot) from owned_slots where slot <> all ($1::smallint[])",
};

// Held by the catalog's one connection until it is closed. Who waits longer than its lock timeout is refused.
const ALONE: Statement = {
  name: "change-owners-alone",
  text: "select pg_advisory_lock(hashtext('onsale: slot owners'))",
};

/** Registers shards and makes every shard own what the catalog says. Returns how many slots each shard owns. */
export async function settleShards(
  catalogUrl: string,
  shards: readonly ShardDatabase[],
): Promise<Map<string, number>> {
  await using catalog = await openAlone(catalogUrl);
  await catalog.database.query(REGISTER, [shards.map((s) => s.id), shards.map((s) => s.databaseUrl)]);
  await catalog.database.query(DEAL, [shards.map((s) => s.id)]);
  const owned = new Map<string, number>();
  for (const shard of await ownersIn(catalog.database)) {
    owned.set(shard.id, shard.slots.length);
    if (!shards.some((given) => given.id === shard.id)) continue;
    await using database = open(shard.databaseUrl);
    await database.database.query(GRANT, [shard.slots, shard.version]);
  }
  return owned;
}

/**
 * Moves a slot that holds no event to another shard. The old owner refuses first, so at no time do two shards accept
 * commands for the slot; until routers have read the new map its events answer 503. The catalog comes before the new
 * owner: wherever a crash interrupts the move, the next migration gives the slot to whom the catalog names, and to nobody
 * else. Throws when the slot holds events.
 */
export async function moveEmptySlot(catalogUrl: string, slot: Slot, to: ShardId): Promise<void> {
  await using catalog = await openAlone(catalogUrl);
  const shards = await ownersIn(catalog.database);
  const target = shards.find((shard) => shard.id === to);
  if (target === undefined) throw new Error(`there is no shard ${to} in the catalog`);
  const source = shards.find((shard) => shard.slots.includes(slot));
  const version = target.version + 1;
  if (source !== undefined && source.id !== to) {
    await using database = open(source.databaseUrl);
    await database.database.query({ name: "release-slot", text: "select release_slot($1)" }, [slot]);
  }
  await catalog.database.query(
    {
      name: "assign-slot",
      text: `
        with moved as (update slots set shard_id = $2 where slot = $1 and shard_id <> $2 returning slot)
        update map_version set version = version + 1 where exists (select from moved)`,
    },
    [slot, to],
  );
  await using database = open(target.databaseUrl);
  await database.database.query({ name: "acquire-slot", text: "select acquire_slot($1, $2)" }, [
    slot,
    version,
  ]);
}

/**
 * Fits a shard that was restored to an earlier moment, or taken over by a replica that missed the last commits, into the
 * cluster: it owns what the catalog says, and its events have versions that nobody has seen. Its nodes must be stopped.
 * Returns how many events it has. Throws when the catalog does not know the shard.
 */
export async function settleRestoredShard(catalogUrl: string, id: ShardId): Promise<number> {
  await using catalog = await openAlone(catalogUrl);
  const shard = (await ownersIn(catalog.database)).find((owner) => owner.id === id);
  if (shard === undefined) throw new Error(`there is no shard ${id} in the catalog`);
  await using database = open(shard.databaseUrl);
  await database.database.query(RELEASE, [shard.slots]);
  await database.database.query(GRANT, [shard.slots, shard.version]);
  const [raised] = await database.database.query<{ events: number }>(RAISE_VERSIONS);
  return raised?.events ?? 0;
}

interface Owner {
  readonly id: string;
  readonly databaseUrl: string;
  readonly slots: number[];
  readonly version: number;
}

async function ownersIn(catalog: Database): Promise<Owner[]> {
  return catalog.query<Owner>(OWNERS);
}

/** The catalog for a change of owners: with a list that another change has made old, two shards would own a slot. */
async function openAlone(catalogUrl: string): Promise<ReturnType<typeof open>> {
  const catalog = open(catalogUrl);
  try {
    await catalog.database.query(ALONE);
    return catalog;
  } catch (error) {
    await catalog.database.close();
    const taken = error instanceof DatabaseError && error.sqlState === LOCK_NOT_AVAILABLE;
    throw taken
      ? new Error("another migration or move of a slot is under way; try again when it has ended")
      : error;
  }
}

function open(url: string): { database: Database } & AsyncDisposable {
  const database = new Database({
    url,
    applicationName: "onsale-migrate",
    connectionsMax: 1,
    waitersMax: 10,
    connectTimeoutMs: 10_000,
    statementTimeoutMs: 60_000,
    lockTimeoutMs: 10_000,
    // With the catalog's connection its lock would be gone.
    keepsIdle: true,
  });
  return { database, [Symbol.asyncDispose]: async () => database.close() };
}
