/**
 * The node's view of the catalog: it announces itself there and keeps the newest shard map in memory, for routers to
 * ask. While the catalog is away everything goes on with the map in memory.
 */
import { setTimeout as sleep } from "node:timers/promises";
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
  readonly #shard: ShardId;
  #url: string | undefined;
  #map: WireShardMap | undefined;
  #refreshing: Promise<void> | undefined;

  constructor(database: Database, shard: ShardId) {
    this.#database = database;
    this.#shard = shard;
  }

  /** From the next refresh on, routers learn that this node serves its shard at `url`. */
  announceAt(url: string): void {
    this.#url = url;
  }

  /** The newest map read, or undefined before the first one. */
  get map(): WireShardMap | undefined {
    return this.#map;
  }

  /** Says that this node serves its shard, and reads the map. Throws DatabaseError when the catalog is away. */
  async refresh(): Promise<void> {
    this.#refreshing ??= this.#announceAndRead().finally(() => (this.#refreshing = undefined));
    return this.#refreshing;
  }

  /** The same, but waits no longer than this, and a catalog that is away does not matter. */
  async refreshWithin(milliseconds: number): Promise<void> {
    await Promise.race([
      this.refresh().catch(() => undefined),
      sleep(milliseconds, undefined, { ref: false }),
    ]);
  }

  /** Says that this node no longer serves. Its map is still refreshed. */
  async withdraw(): Promise<void> {
    const url = this.#url;
    this.#url = undefined;
    await this.#database.query(WITHDRAW, [url]);
  }

  async #announceAndRead(): Promise<void> {
    if (this.#url !== undefined) await this.#database.query(ANNOUNCE, [this.#url, this.#shard]);
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
}
