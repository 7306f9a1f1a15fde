/**
 * All nodes of the cluster, and the newest map that they tell. Whoever calls nodes asks them for the map every second, and goes
 * on with the one it has while none answers.
 */
import type { Log } from "../process/log.ts";
import { repeat, type Repeated } from "../process/repeat.ts";
import type { ShardMap } from "../domain/shard-map.ts";
import { CallError, NodeClient } from "./node-client.ts";
import { mapAnswerSchema, RPC } from "./rpc.ts";
import { readShardMap } from "./shard-map.ts";

const MAP_REFRESH_MS = 1_000;
const MAP_TIMEOUT_MS = 1_000;
/** So many times no node answered, one after the other: this process is cut off. One that was paused itself misses one. */
const SILENCES_MAX = 2;

export interface NodesOptions {
  /** Nodes to ask for the map before one is known. */
  readonly seedUrls: readonly string[];
  readonly internalToken: string;
  /** Connections to a node for calls that are not `direct` ones. */
  readonly connections: number;
  readonly log: Log;
  /** Hears of each map that is taken, before `map` gives it. */
  readonly changed?: (map: ShardMap) => void;
}

export class Nodes {
  readonly #options: NodesOptions;
  readonly #nodes = new Map<string, NodeClient>();
  readonly #refreshing: Repeated;
  #map: ShardMap | undefined;
  #reload: Promise<void> | undefined;
  /** How often no node answered since one last did. */
  #silences = 0;
  /** Nodes by shard. While all nodes of a shard are away, its last ones are kept. */
  readonly #shards = new Map<string, readonly NodeClient[]>();

  constructor(options: NodesOptions) {
    this.#options = options;
    for (const url of options.seedUrls) this.#node(url);
    this.#refreshing = repeat(
      async () => this.refresh(),
      MAP_REFRESH_MS,
      (error) => options.log.error({ err: error }, "the shard map could not be refreshed"),
    );
  }

  /** The newest map, if any was told. */
  get map(): ShardMap | undefined {
    return this.#map;
  }

  /** Why this process can reach no shard, or undefined. One node that answers is enough. */
  get unready(): string | undefined {
    if (this.#map === undefined) return "no node has told the shard map yet";
    if (this.#silences < SILENCES_MAX) return undefined;
    return `no node answers: ${[...this.#nodes.keys()].join(", ")}`;
  }

  /** The nodes of a shard. */
  of(shard: string): readonly NodeClient[] {
    return this.#shards.get(shard) ?? [];
  }

  /** Asks all nodes for their map and takes the newest. Callers that ask meanwhile wait for the same answer. */
  async refresh(): Promise<void> {
    this.#reload ??= this.#reloadMap().finally(() => (this.#reload = undefined));
    return this.#reload;
  }

  async close(): Promise<void> {
    await this.#refreshing.stop();
    await Promise.all([...this.#nodes.values()].map(async (node) => node.close()));
  }

  async #reloadMap(): Promise<void> {
    let answered = false;
    const ask = async (node: NodeClient): Promise<void> => {
      const map = await this.#mapOf(node);
      if (map === "silence") return;
      answered = true;
      // At once: a node that is silent must not hold up what another one says.
      this.#silences = 0;
      if (map !== undefined && map.version >= (this.#map?.version ?? 0)) this.#use(map);
    };
    await Promise.all([...this.#nodes.values()].map(ask));
    if (!answered) this.#silences += 1;
  }

  /** The node's map, if it has one. */
  async #mapOf(node: NodeClient): Promise<ShardMap | "silence" | undefined> {
    try {
      return readShardMap(
        await node.probe({ path: RPC.map, answer: mapAnswerSchema, timeoutMs: MAP_TIMEOUT_MS }),
      );
    } catch (error) {
      if (error instanceof CallError) return "silence";
      throw error;
    }
  }

  #use(map: ShardMap): void {
    for (const [id, urls] of map.nodeUrls)
      if (urls.length > 0)
        this.#shards.set(
          id,
          urls.map((url) => this.#node(url)),
        );
    this.#forget();
    this.#options.changed?.(map);
    const known = this.#map;
    this.#map = map;
    if (known?.version !== map.version)
      this.#options.log.info({ version: map.version }, "using a new shard map");
  }

  /** Drops nodes that no longer serve a shard, so that they are asked for the map no more. */
  #forget(): void {
    const used = new Set([...this.#shards.values()].flat());
    const { seedUrls } = this.#options;
    for (const [url, node] of this.#nodes) {
      if (used.has(node) || seedUrls.includes(url)) continue;
      this.#nodes.delete(url);
      void node.close();
    }
  }

  #node(url: string): NodeClient {
    const known = this.#nodes.get(url);
    if (known !== undefined) return known;
    const { internalToken, connections, log } = this.#options;
    const node = new NodeClient(url, internalToken, connections, log);
    this.#nodes.set(url, node);
    return node;
  }
}
