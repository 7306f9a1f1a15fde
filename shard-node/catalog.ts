/**
 * The node's view of the catalog: it announces itself there and keeps the newest shard map in memory, for routers to
 * ask. While the catalog is away everything goes on with the map in memory.
 */
import type { ShardId } from "../shared/ids.ts";
import type { Database, Statement } from "../shared/postgres.ts";
import { rangesOf, readShardMap, type WireShardMap } from "../shared/shard-map.ts";

/** A node that was not seen for this long is left out of the map. */
const NODE_FORGOTTEN_SECONDS = 15;

const ANNOUNCE: Statement = {
  name: "announce-node",
  text: `
    insert into nodes (url, shard_id) values ($1, $2)
    on conflict (url) do update set shard_id = excluded.shard_id, seen_at = now()`,
};
const WITHDRAW: Statement = { name: "withdraw-node", text: "delete from nodes where url = $1" };
const READ_MAP: Statement = {
  name: "read-map",
  text: `
    select (select version from map_version)::float8 as version,
           coalesce((select json_agg(json_build_object(
             'id', s.id,
             'slots', array(select slot from slots where shard_id = s.id order by slot),
             'nodeUrls', array(select url from nodes
                               where shard_id = s.id and seen_at > now() - make_interval(secs => $1)
                               order by started_at, url)) order by s.id)
           from shards s), '[]') as shards`,
};

export class Catalog {
  readonly #database: Database;
  #map: WireShardMap | undefined;

  constructor(database: Database) {
    this.#database = database;
  }

  /** The newest map read, or undefined before the first one. */
  get map(): WireShardMap | undefined {
    return this.#map;
  }

  /** Says that this node serves the shard, and reads the map. Throws DatabaseError when the catalog is away. */
  async refresh(url: string, shard: ShardId): Promise<void> {
    await this.#database.query(ANNOUNCE, [url, shard]);
    const [row] = await this.#database.query<{
      version: number;
      shards: { id: ShardId; slots: number[]; nodeUrls: string[] }[];
    }>(READ_MAP, [NODE_FORGOTTEN_SECONDS]);
    if (row === undefined) return;
    const map: WireShardMap = {
      version: row.version,
      shards: row.shards.map(({ id, slots, nodeUrls }) => ({ id, nodeUrls, slotRanges: rangesOf(slots) })),
    };
    if (readShardMap(map) === undefined) throw new Error("the catalog's map leaves slots without an owner");
    this.#map = map;
  }

  /** Says that this node no longer serves. */
  async withdraw(url: string): Promise<void> {
    await this.#database.query(WITHDRAW, [url]);
  }
}
