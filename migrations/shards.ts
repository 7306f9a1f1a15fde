/**
 * Changes which shards there are and which slots they own. A cluster's first migration deals the slots out evenly, a shard
 * added later owns none, and an empty slot can be moved. Every change of owners carries a fencing token: shards and catalog
 * refuse a change that a newer one has overtaken (docs/decisions/0012-slot-fencing.md).
 */
import { Database, DatabaseError, LOCK_NOT_AVAILABLE, type Statement } from "../shared/database/database.ts";
import type { ShardId } from "../shared/domain/ids.ts";
import { invariant } from "../shared/domain/invariant.ts";
import { SLOT_COUNT, type Slot } from "../shared/domain/slots.ts";

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

// The catalog's one connection holds this lock until it closes. A change that waits longer than its lock timeout is
// refused. The lock keeps changes from failing each other; if it is lost, their tokens still keep the data safe.
const ALONE: Statement = {
  name: "change-owners-alone",
  text: "select pg_advisory_lock(hashtext('onsale: slot owners'))",
};

// Milliseconds rise faster than changes are made. So no token comes twice and every map is newer than all before, even
// after the catalog has lost its last commits with its primary.
const TAKE_TOKEN: Statement = {
  name: "take-token",
  text: `
    update map_version set version = greatest(version + 1, (extract(epoch from clock_timestamp()) * 1000)::bigint)
    returning version::float8 as token`,
};

// Only into an empty table: an existing map changes by moves, never by dealing again.
const DEAL: Statement = {
  name: "deal-slots",
  text: `
    insert into slots (slot, shard_id)
    select slot, ($1::text[])[slot * cardinality($1::text[]) / ${SLOT_COUNT} + 1]
    from generate_series(0, ${SLOT_COUNT - 1}) as slot
    where not exists (select from slots)
    on conflict do nothing`,
};

const OWNERS: Statement = {
  name: "slot-owners",
  text: `
    select s.id, s.database_url as "databaseUrl", s.timeline,
           array(select slot from slots where shard_id = s.id order by slot)::integer[] as slots
    from shards s order by s.id`,
};

// Only while no other change has taken a token. The map gets a new version: with the token's version it may have been read
// before the move.
const ASSIGN: Statement = {
  name: "assign-slot",
  text: `
    with latest as (update map_version set version = version + 1 where version = $3 returning version)
    update slots set shard_id = $2 where slot = $1 and exists (select from latest) returning slot`,
};

// This server becomes the shard's, whatever timeline nodes found before.
const SET_TIMELINE: Statement = {
  name: "set-timeline",
  text: "update shards set timeline = $2 where id = $1",
};

const RELEASE: Statement = { name: "release-slots", text: "select release_slots($1::smallint[], $2)" };
const ACQUIRE: Statement = { name: "acquire-slots", text: "select acquire_slots($1::smallint[], $2)" };

// B9, C2: every earlier version of an event, from any history of the shard, is lower. So every cache takes the event as it
// is now, without a restart, and no ETag means two things. Milliseconds rise faster than batches raise a version, so this
// also holds after a second restore from a backup that is older than the first.
const RAISE_VERSIONS: Statement = {
  name: "raise-versions",
  text: `
    with raised as (
      update events set version = greatest(version + 1, (extract(epoch from clock_timestamp()) * 1000)::bigint)
      returning id
    )
    select count(*)::integer as events from raised`,
};

const RESTART_CHANGES: Statement = { name: "restart-changes", text: "select restart_changes()" };

/** Registers shards and gives them the slots that the catalog says. Returns how many slots each shard owns. */
export async function settleShards(
  catalogUrl: string,
  shards: readonly ShardDatabase[],
): Promise<Map<string, number>> {
  await using change = await beginChange(catalogUrl);
  await change.catalog.query(REGISTER, [shards.map((s) => s.id), shards.map((s) => s.databaseUrl)]);
  await change.catalog.query(DEAL, [shards.map((s) => s.id)]);
  const owners = await ownersIn(change);
  await settle(
    change,
    owners.filter((owner) => shards.some((shard) => shard.id === owner.id)),
  );
  return new Map(owners.map((owner) => [owner.id, owner.slots.length]));
}

/**
 * Moves a slot that holds no event to another shard; throws when it holds one. The old owner gives the slot up first, so
 * two shards never accept commands for it; until routers have read the new map, it answers 503. The catalog changes before
 * the new owner: after a crash at any point, the next migration gives the slot to the owner that the catalog names.
 */
export async function moveEmptySlot(catalogUrl: string, slot: Slot, to: ShardId): Promise<void> {
  await using change = await beginChange(catalogUrl);
  const owners = await ownersIn(change);
  const target = owners.find((owner) => owner.id === to);
  if (target === undefined) throw new Error(`there is no shard ${to} in the catalog`);
  const source = owners.find((owner) => owner.slots.includes(slot));
  if (source !== undefined && source !== target) await tell(change, source, RELEASE, [slot]);
  const assigned = await change.catalog.query(ASSIGN, [slot, to, change.token]);
  if (assigned.length === 0)
    throw new Error("another change of slot owners has begun since; run this one again");
  await tell(change, target, ACQUIRE, [slot]);
}

/**
 * Brings a shard back that was restored to an earlier moment, or whose new primary lacks the last commits. It gets the slots
 * that the catalog says, its events get versions that nobody has seen, followers of its log are told to start anew, and nodes
 * accept its server whatever they found before. Its nodes must be stopped. Returns how many events it has. Throws when the catalog does not know the shard.
 */
export async function settleRestoredShard(catalogUrl: string, id: ShardId): Promise<number> {
  await using change = await beginChange(catalogUrl);
  const shard = (await ownersIn(change)).find((owner) => owner.id === id);
  if (shard === undefined) throw new Error(`there is no shard ${id} in the catalog`);
  await settle(change, [{ ...shard, timeline: 0 }]);
  await using database = open(shard.databaseUrl);
  const [raised] = await database.database.query<{ events: number }>(RAISE_VERSIONS);
  await database.database.query(RESTART_CHANGES);
  await change.catalog.query(SET_TIMELINE, [id, database.database.timeline]);
  return raised?.events ?? 0;
}

/** A change of owners under way. */
interface Change extends AsyncDisposable {
  readonly catalog: Database;
  /** Greater than the token of every change that began before. */
  readonly token: number;
}

interface Owner {
  readonly id: string;
  readonly databaseUrl: string;
  /** The newest that nodes have found. A server of an older one was replaced. */
  readonly timeline: number;
  readonly slots: readonly number[];
}

/** Waits until no other change is under way, then takes a token. */
async function beginChange(catalogUrl: string): Promise<Change> {
  const catalog = open(catalogUrl);
  try {
    await catalog.database.query(ALONE);
    const [taken] = await catalog.database.query<{ token: number }>(TAKE_TOKEN);
    invariant(taken !== undefined, "the catalog has a version of the map");
    return {
      catalog: catalog.database,
      token: taken.token,
      [Symbol.asyncDispose]: catalog[Symbol.asyncDispose],
    };
  } catch (error) {
    await catalog.database.close();
    const isTaken = error instanceof DatabaseError && error.sqlState === LOCK_NOT_AVAILABLE;
    throw isTaken
      ? new Error("another migration or move of a slot is under way; try again when it has ended")
      : error;
  }
}

/** Read after the token was taken, so every assignment by a lower token is in it. */
async function ownersIn({ catalog }: Change): Promise<Owner[]> {
  return catalog.query<Owner>(OWNERS);
}

/**
 * Makes shards own exactly the slots that the catalog says. This repairs a shard that was away, was restored, or whose move
 * was interrupted. All shards give up slots before any takes one that another may have had.
 */
async function settle(change: Change, owners: readonly Owner[]): Promise<void> {
  const all = new Set(Array.from({ length: SLOT_COUNT }, (_, slot) => slot));
  for (const owner of owners) await tell(change, owner, RELEASE, [...all.difference(new Set(owner.slots))]);
  for (const owner of owners) await tell(change, owner, ACQUIRE, owner.slots);
}

/** Makes a shard give up or take slots. When the shard refuses, throws its reason, with its name. */
async function tell(
  { token }: Change,
  { id, databaseUrl, timeline }: Owner,
  statement: Statement,
  slots: readonly number[],
): Promise<void> {
  await using shard = open(databaseUrl);
  shard.database.refuseBefore(timeline);
  try {
    await shard.database.query(statement, [slots, token]);
  } catch (cause) {
    throw cause instanceof DatabaseError ? new Error(`${id}: ${cause.message}`, { cause }) : cause;
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
