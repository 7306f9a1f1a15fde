/**
 * The node's view of the catalog. The node announces itself there and keeps the newest shard map in memory for routers.
 * The nodes of a shard also share its newest timeline there, so that none of them writes to a replaced primary. While the
 * catalog is away, the node works on with what is in memory.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { ShardId } from "../shared/domain/ids.ts";
import { ownerOf } from "../shared/domain/shard-map.ts";
import type { Slot } from "../shared/domain/slots.ts";
import type { Database, Statement } from "../shared/database/database.ts";
import { rangesOf, readShardMap, type WireShardMap } from "../shared/wire/shard-map.ts";

/** The map leaves out nodes that have not announced themselves for this long. */
const NODE_FORGOTTEN_SECONDS = 15;

const ANNOUNCE: Statement = {
  name: "announce-node",
  text: `
    insert into nodes (url, shard_id) values ($1, $2)
    on conflict (url) do update set shard_id = excluded.shard_id, seen_at = now()`,
};
const WITHDRAW: Statement = { name: "withdraw-node", text: "delete from nodes where url = $1" };
const RECORD_TIMELINE: Statement = {
  name: "record-timeline",
  text: "update shards set timeline = $2 where id = $1 and timeline < $2",
};
const READ_MAP: Statement = {
  name: "read-map",
  text: `
    select (select version from map_version)::float8 as version,
           coalesce((select timeline from shards where id = $2), 0) as timeline,
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
  readonly #shardDatabases: readonly Database[];
  /** The timeline of the shard in the catalog, when it was last read. */
  #recordedTimeline = 0;
  #url: string | undefined;
  #map: WireShardMap | undefined;
  #refreshing: Promise<void> | undefined;

  /** `shardDatabases` report the timelines that they find, and are told of the one that other nodes found. */
  constructor(database: Database, shard: ShardId, shardDatabases: readonly Database[]) {
    this.#database = database;
    this.#shard = shard;
    this.#shardDatabases = shardDatabases;
  }

  /** From the next refresh on, routers learn that this node serves its shard at `url`. */
  announceAt(url: string): void {
    this.#url = url;
  }

  /** The newest map read, or undefined before the first one. */
  get map(): WireShardMap | undefined {
    return this.#map;
  }

  /** The owner of a slot by the newest map read. */
  ownerOf(slot: Slot): ShardId | undefined {
    const map = this.#map && readShardMap(this.#map);
    return map && ownerOf(map, slot);
  }

  /** Whether the newest map names this node, so that every router that asks for it finds this node. */
  get announced(): boolean {
    const url = this.#url;
    return (
      url !== undefined &&
      this.#map?.shards.some(({ id, nodeUrls }) => id === this.#shard && nodeUrls.includes(url)) === true
    );
  }

  /** Announces this node, and reads the map and the timeline. Throws DatabaseError when the catalog is away. */
  async refresh(): Promise<void> {
    this.#refreshing ??= this.#announceAndRead().finally(() => (this.#refreshing = undefined));
    return this.#refreshing;
  }

  /** Refreshes, but waits no longer than this, and ignores a failure. */
  async refreshWithin(milliseconds: number): Promise<void> {
    await Promise.race([
      this.refresh().catch(() => undefined),
      sleep(milliseconds, undefined, { ref: false }),
    ]);
  }

  /** Takes this node out of the map. The node still refreshes its own copy of the map. */
  async withdraw(): Promise<void> {
    const url = this.#url;
    this.#url = undefined;
    await this.#database.query(WITHDRAW, [url]);
  }

  async #announceAndRead(): Promise<void> {
    const found = Math.max(...this.#shardDatabases.map(({ timeline }) => timeline));
    if (found > this.#recordedTimeline) await this.#database.query(RECORD_TIMELINE, [this.#shard, found]);
    if (this.#url !== undefined) await this.#database.query(ANNOUNCE, [this.#url, this.#shard]);
    const [row] = await this.#database.query<{
      version: number;
      timeline: number;
      shards: { id: ShardId; slots: number[]; nodeUrls: string[] }[];
    }>(READ_MAP, [NODE_FORGOTTEN_SECONDS, this.#shard]);
    if (row === undefined) return;
    this.#recordedTimeline = row.timeline;
    for (const database of this.#shardDatabases) database.refuseBefore(row.timeline);
    const map: WireShardMap = {
      version: row.version,
      shards: row.shards.map(({ id, slots, nodeUrls }) => ({ id, nodeUrls, slotRanges: rangesOf(slots) })),
    };
    if (readShardMap(map) === undefined) throw new Error("the catalog's map leaves slots without an owner");
    this.#map = map;
  }
}
