/**
 * Which shards exist and which slots they own. The first migration of a cluster deals the slots out evenly, a shard added
 * later owns nothing, and an empty slot can be moved. Every change of owners carries a fencing token: shards and catalog
 * refuse a change that another has overtaken (docs/decisions/0012-slot-fencing.md).
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

// The catalog's one connection holds it until it is closed. A change that waits longer than its lock timeout is refused.
// The lock keeps changes from failing; if it is lost, their tokens keep them from doing harm.
const ALONE: Statement = {
  name: "change-owners-alone",
  text: "select pg_advisory_lock(hashtext('onsale: slot owners'))",
};

// Milliseconds rise faster than changes are made, so no token comes twice and every map is newer than those before, even
// when the catalog's last commits are lost with its primary.
const TAKE_TOKEN: Statement = {
  name: "take-token",
  text: `
    update map_version set version = greatest(version + 1, (extract(epoch from clock_timestamp()) * 1000)::bigint)
    returning version::float8 as token`,
};

// Only into an empty table: a map that exists is changed by moving slots, never dealt anew.
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

// Only while no other change has taken a token. The map gets a new version: readers of the token's version saw the old map.
const ASSIGN: Statement = {
  name: "assign-slot",
  text: `
    with latest as (update map_version set version = version + 1 where version = $3 returning version)
    update slots set shard_id = $2 where slot = $1 and exists (select from latest) returning slot`,
};

// This server is the shard's from now on, whatever timeline nodes found before.
const SET_TIMELINE: Statement = {
  name: "set-timeline",
  text: "update shards set timeline = $2 where id = $1",
};

const RELEASE: Statement = { name: "release-slots", text: "select release_slots($1::smallint[], $2)" };
const ACQUIRE: Statement = { name: "acquire-slots", text: "select acquire_slots($1::smallint[], $2)" };

// B9, C2: every earlier snapshot of an event, from this history of the shard or another, has a lower version. So every cache
// takes the event as it is now, without a restart, and no ETag means two things. Milliseconds rise faster than batches can
// raise a version, so this holds even if a shard is restored a second time, from a backup made before the first restore.
const RAISE_VERSIONS: Statement = {
  name: "raise-versions",
  text: `
    with raised as (
      update events set version = greatest(version + 1, (extract(epoch from clock_timestamp()) * 1000)::bigint)
      returning id
    )
    select count(*)::integer as events from raised`,
};

/** Registers shards and makes them own what the catalog says. Returns how many slots each shard of the catalog owns. */
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
 * Moves a slot that holds no event to another shard. The old owner refuses first, so at no time do two shards accept
 * commands for the slot; until routers have read the new map its events answer 503. The catalog comes before the new
 * owner: wherever a crash interrupts the move, the next migration gives the slot to the shard that the catalog names, and
 * to no other. Throws when the slot holds events.
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
 * Fits a shard that was restored to an earlier moment, or taken over by a replica that missed the last commits, into the
 * cluster: it owns what the catalog says, its events have versions that nobody has seen, and nodes accept its server,
 * whatever they found before. Its nodes must be stopped.
 * Returns how many events it has. Throws when the catalog does not know the shard.
 */
export async function settleRestoredShard(catalogUrl: string, id: ShardId): Promise<number> {
  await using change = await beginChange(catalogUrl);
  const shard = (await ownersIn(change)).find((owner) => owner.id === id);
  if (shard === undefined) throw new Error(`there is no shard ${id} in the catalog`);
  await settle(change, [{ ...shard, timeline: 0 }]);
  await using database = open(shard.databaseUrl);
  const [raised] = await database.database.query<{ events: number }>(RAISE_VERSIONS);
  await change.catalog.query(SET_TIMELINE, [id, database.database.timeline]);
  return raised?.events ?? 0;
}

/** A change of owners that is under way. */
interface Change extends AsyncDisposable {
  readonly catalog: Database;
  /** Greater than those of all changes that began before. */
  readonly token: number;
}

interface Owner {
  readonly id: string;
  readonly databaseUrl: string;
  /** The newest that nodes have found; a server of an older one was replaced. */
  readonly timeline: number;
  readonly slots: readonly number[];
}

/** Waits until no other change is under way, and takes a token. */
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

/** As the catalog says now, so everything assigned with a lesser token is included. */
async function ownersIn({ catalog }: Change): Promise<Owner[]> {
  return catalog.query<Owner>(OWNERS);
}

/**
 * Makes shards own what the catalog says, and nothing else. A shard that was away, was restored, or whose move was
 * interrupted learns it here. All shards give up what is not theirs before any takes what another may have had.
 */
async function settle(change: Change, owners: readonly Owner[]): Promise<void> {
  const all = new Set(Array.from({ length: SLOT_COUNT }, (_, slot) => slot));
  for (const owner of owners) await tell(change, owner, RELEASE, [...all.difference(new Set(owner.slots))]);
  for (const owner of owners) await tell(change, owner, ACQUIRE, owner.slots);
}

/** Has a shard give up or take slots. Throws with the shard's name and its reason when it refuses. */
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
    // If the catalog's idle connection were closed, the lock would be gone.
    keepsIdle: true,
  });
  return { database, [Symbol.asyncDispose]: async () => database.close() };
}
