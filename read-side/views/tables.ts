/**
 * The tables of the read side (schema.sql): which are there, and how they are exchanged as a whole. Those that serve are in the
 * schema `views`. A rebuild fills `views_next` beside them, and then one transaction puts it in their place.
 */
import { readFileSync } from "node:fs";
import type { Connection } from "../../shared/database/connection.ts";
import { type Database, LOCK_NOT_AVAILABLE, type Statement } from "../../shared/database/database.ts";
import type { ShardId } from "../../shared/domain/ids.ts";

/** Rises with every change of schema.sql, and of what is written into the tables. */
export const VIEWS_VERSION = 1;

export type Schema = "views" | "views_next";

const SCHEMA_SQL = readFileSync(`${import.meta.dirname}/schema.sql`, "utf8");

/** How long the exchange waits for a lock, and whoever comes after it for the exchange. Then it tries again. */
const EXCHANGE_LOCK_WAIT_MS = 200;

/** The relation does not exist (PostgreSQL manual, appendix A). */
const UNDEFINED_TABLE = "42P01";

/** Held by the session of a rebuild: there is one at a time. */
const REBUILD_LOCK = "hashtext('onsale: rebuilding the views')";

export interface ShardPosition {
  readonly position: number;
  /** How far the copy has come; null once it is whole. */
  readonly copied: string | null;
  readonly asOf: string | null;
}
export type Positions = Readonly<Record<ShardId, ShardPosition>>;

/** What the tables say of themselves. */
export interface Found {
  readonly version: number;
  /** Null for the moment in which the tables are about to be replaced. */
  readonly build: string | null;
  readonly positions: Positions;
}

/** A part of a select list, over the only row of `about`. */
export const positionsIn = (schema: Schema): string => `
  (select coalesce(json_object_agg(p.shard, json_build_object('position', p.position, 'copied', p.copied, 'asOf', p.as_of)), '{}')
   from ${schema}.positions p) as positions`;

const FIND = Object.fromEntries(
  (["views", "views_next"] as const).map((schema) => [
    schema,
    {
      name: `find-${schema}`,
      text: `select a.version, a.build, ${positionsIn(schema)} from ${schema}.about a`,
    },
  ]),
) as unknown as Readonly<Record<Schema, Statement>>;

// Whoever began to replace the tables is gone when nobody holds that lock.
const THAW: Statement = {
  name: "thaw-views",
  text: `update views.about set build = gen_random_uuid()
         where build is null and pg_try_advisory_xact_lock(${REBUILD_LOCK})`,
};

/** Undefined when there are no such tables. Throws DatabaseError. */
export async function findTables(
  database: Pick<Database, "query">,
  schema: Schema = "views",
): Promise<Found | undefined> {
  try {
    const [found] = await database.query<Found>(FIND[schema]);
    return found;
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}

/** Whether a statement failed because its tables are not there. */
export function isMissing(error: unknown): boolean {
  return (error as { sqlState?: string }).sqlState === UNDEFINED_TABLE;
}

/** Lets the tables be written again, if whoever was about to replace them is gone. Throws DatabaseError. */
export async function thaw(database: Database): Promise<void> {
  await database.query(THAW);
}

/** Whether this session may rebuild from now on, until it ends. */
export async function lockRebuild(session: Connection): Promise<boolean> {
  const [row] = await session.run<{ locked: boolean }>(
    `select pg_try_advisory_lock(${REBUILD_LOCK}) as locked`,
  );
  return row?.locked === true;
}

/** Makes empty tables beside those that serve. What an earlier rebuild left is dropped. */
export async function makeNext(session: Connection, build: string): Promise<void> {
  await session.script(`
    drop schema if exists views_next cascade;
    create schema views_next;
    set local search_path = views_next;
    ${SCHEMA_SQL};
    insert into about (version, build) values (${VIEWS_VERSION}, '${build}');`);
}

/** From now on nobody moves the tables that serve, unless the session ends (`thaw`). */
export async function freeze(session: Connection): Promise<void> {
  await session.run("update views.about set build = null");
}

export async function unfreeze(session: Connection, build: string): Promise<void> {
  await session.run("update views.about set build = $1 where build is null", [build]);
}

/**
 * Puts the new tables in the place of those that serve, in one transaction. Returns false, and changes nothing, when they are
 * not as far as those, or somebody is still at work on them.
 */
export async function exchange(session: Connection, isFirst: boolean): Promise<boolean> {
  await session.run("begin");
  try {
    await session.run(`set local lock_timeout = ${EXCHANGE_LOCK_WAIT_MS}`);
    if (!isFirst) {
      // Every question locks this table first, so from here on questions wait with nothing in their hands.
      await session.run("lock table views.about in access exclusive mode");
      await session.run("lock table views.positions in access exclusive mode");
      const behind = await session.run(
        `select from views.positions v join views_next.positions n using (shard) where n.position < v.position`,
      );
      if (behind.length > 0) throw new NotYet();
      // What those that serve know of a moment goes for everything that is further.
      await session.run(
        `update views_next.positions n set as_of = v.as_of from views.positions v
         where n.shard = v.shard and n.as_of < v.as_of`,
      );
      await session.run("drop schema views cascade");
    }
    await session.run("alter schema views_next rename to views");
    await session.run("commit");
    return true;
  } catch (error) {
    if (session.isClosed) throw error;
    await session.run("rollback");
    if (error instanceof NotYet || (error as { sqlState?: string }).sqlState === LOCK_NOT_AVAILABLE)
      return false;
    throw error;
  }
}

class NotYet extends Error {}
