/**
 * The shards as a router sees them: the newest map, and a client for each shard. A router asks the nodes for the map every
 * second, and at once when a node refuses a slot; then it reroutes the request, once (R4).
 */
import { type BookingId, type EventId, type ShardId, slotOfBooking } from "../../shared/domain/ids.ts";
import type { Log } from "../../shared/process/log.ts";
import { repeat, type Repeated } from "../../shared/process/repeat.ts";
import { ownerOf, type ShardMap } from "../../shared/domain/shard-map.ts";
import { type Slot, slotOf } from "../../shared/domain/slots.ts";
import { readShardMap } from "../../shared/wire/shard-map.ts";
import type { Span } from "../../shared/watch/tracing.ts";
import type { Booking } from "../../shared/domain/bookings.ts";
import {
  type ChangeEventRequest,
  type CreateEventRequest,
  type EventResult,
  mapAnswerSchema,
  type ReadResult,
  RPC,
} from "../../shared/wire/rpc.ts";
import type { Command } from "../../shared/domain/commands.ts";
import type { CommandResult, Failure } from "../../shared/domain/outcomes.ts";
import type { RequestState } from "../../shared/domain/requests.ts";
import type { Event, Snapshot } from "../../shared/domain/events.ts";
import { CallError, NodeClient } from "../../shared/wire/node-client.ts";
import { connectionsFor, ShardClient, type ShardClientOptions } from "./shard-client.ts";

const MAP_REFRESH_MS = 1_000;
const MAP_TIMEOUT_MS = 1_000;
/** So many times no node answered, one after the other: this router is cut off. One that was paused itself misses one. */
const SILENCES_MAX = 2;

export interface ClusterOptions extends Omit<ShardClientOptions, "mapSeen"> {
  /** Nodes to ask for the map before one is known. */
  readonly seedUrls: readonly string[];
  readonly internalToken: string;
  readonly log: Log;
}

export class Cluster {
  readonly #options: ClusterOptions;
  readonly #nodes = new Map<string, NodeClient>();
  readonly #shards = new Map<ShardId, ShardClient>();
  readonly #refreshing: Repeated;
  #map: ShardMap | undefined;
  #reload: Promise<void> | undefined;
  /** How often no node answered since one last did. */
  #silences = 0;

  constructor(options: ClusterOptions) {
    this.#options = options;
    for (const url of options.seedUrls) this.#node(url);
    this.#refreshing = repeat(
      async () => this.refreshMap(),
      MAP_REFRESH_MS,
      (error) => options.log.error({ err: error }, "the shard map could not be refreshed"),
    );
  }

  /**
   * Why clients had better ask another router, or undefined. One node that answers is enough: its router serves what it can.
   * A router that reaches none refuses everything at once, so a load balancer would take it for the one with the least to do.
   */
  get unready(): string | undefined {
    if (this.#map === undefined) return "no node has told the shard map yet";
    if (this.#silences < SILENCES_MAX) return undefined;
    return `no node answers: ${[...this.#nodes.keys()].join(", ")}`;
  }

  get shards(): readonly ShardClient[] {
    return [...this.#shards.values()];
  }

  command(command: Command, span?: Span): Promise<CommandResult> {
    return this.#routed(command.slot, (shard) => shard.command(command, span));
  }

  /** A replica may answer if it has everything that was committed before `notBefore` (by `elapsed()`). */
  readEvent(id: EventId, notBefore: number, span?: Span): Promise<ReadResult<Snapshot> | Failure> {
    return this.#routed(slotOf(id), (shard) => shard.readEvent(id, notBefore, span));
  }

  readBooking(id: BookingId, span?: Span): Promise<ReadResult<Booking> | Failure> {
    return this.#routed(slotOfBooking(id), (shard) => shard.readBooking(id, span));
  }

  readRequest(id: BookingId, span?: Span): Promise<ReadResult<RequestState> | Failure> {
    return this.#routed(slotOfBooking(id), (shard) => shard.readRequest(id, span));
  }

  /** The owner of a slot by the newest map, if there is a map. */
  ownerOf(slot: Slot): ShardId | undefined {
    return this.#map && ownerOf(this.#map, slot);
  }

  async createEvent(request: CreateEventRequest, span?: Span): Promise<EventResult> {
    return this.#routed(slotOf(request.id), async (shard) => shard.createEvent(request, span));
  }

  async changeEvent(request: ChangeEventRequest, span?: Span): Promise<EventResult> {
    return this.#routed(slotOf(request.id), async (shard) => shard.changeEvent(request, span));
  }

  /**
   * At most `limit` events of all shards that are older than `before`, newest first. One shard that fails makes the list a
   * failure. A replica may answer if it has everything that was committed before `notBefore`. The list holds everything
   * that was committed before `asOf`.
   */
  async listEvents(
    before: EventId | null,
    limit: number,
    notBefore: number,
    span?: Span,
  ): Promise<{ events: Event[]; asOf: number } | Failure> {
    const { owning } = this.#map ?? {};
    if (owning === undefined) return { outcome: "shard_unavailable" };
    const asked = this.shards.filter((shard) => owning.has(shard.id));
    const askedAt = this.#options.clock.elapsed();
    let asOf = askedAt;
    const lists = await Promise.all(asked.map(async (shard) => shard.list(before, limit, notBefore, span)));
    const events: Event[] = [];
    for (const list of lists) {
      if (!("events" in list)) return list;
      events.push(...list.events);
      asOf = Math.min(asOf, askedAt - (list.ageMs ?? 0));
    }
    // Event ids are UUIDv7 in lower case, so they sort by time as text.
    events.sort((a, b) => (a.id < b.id ? 1 : -1));
    return { events: events.slice(0, limit), asOf };
  }

  /** Asks all nodes for their map and takes the newest. Callers that ask meanwhile wait for the same answer. */
  async refreshMap(): Promise<void> {
    this.#reload ??= this.#reloadMap().finally(() => (this.#reload = undefined));
    return this.#reload;
  }

  async close(): Promise<void> {
    await this.#refreshing.stop();
    await Promise.all([...this.#nodes.values()].map(async (node) => node.close()));
  }

  async #routed<Result extends { outcome: string }>(
    slot: Slot,
    ask: (shard: ShardClient) => Promise<Result | Failure>,
  ): Promise<Result | Failure> {
    const first = await this.#ask(slot, ask);
    if (first.outcome !== "wrong_shard") return first;
    await this.refreshMap();
    const second = await this.#ask(slot, ask);
    // The slot is moving between two shards and will have an owner within moments.
    return second.outcome === "wrong_shard" ? { outcome: "shard_unavailable" } : second;
  }

  #ask<Result>(
    slot: Slot,
    ask: (shard: ShardClient) => Promise<Result | Failure>,
  ): Promise<Result | Failure> | Failure {
    const shard = this.#map && this.#shards.get(ownerOf(this.#map, slot));
    return shard === undefined ? { outcome: "shard_unavailable" } : ask(shard);
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
    for (const [id, urls] of map.nodeUrls) {
      const shard =
        this.#shards.get(id) ?? new ShardClient(id, { ...this.#options, mapSeen: (v) => this.#mapSeen(v) });
      this.#shards.set(id, shard);
      // While all nodes of a shard are away, their addresses are kept.
      if (urls.length > 0) shard.useNodes(urls.map((url) => this.#node(url)));
    }
    this.#forgetNodes();
    const known = this.#map;
    this.#map = map;
    if (known?.version !== map.version)
      this.#options.log.info({ version: map.version }, "using a new shard map");
  }

  /** Drops nodes that no longer serve a shard, so that the router stops asking them for the map. */
  #forgetNodes(): void {
    const used = new Set([...this.#options.seedUrls, ...this.shards.flatMap((shard) => shard.nodeUrls)]);
    for (const [url, node] of this.#nodes) {
      if (used.has(url)) continue;
      this.#nodes.delete(url);
      void node.close();
    }
  }

  #mapSeen(version: number): void {
    if (this.#map !== undefined && version > this.#map.version) void this.refreshMap();
  }

  #node(url: string): NodeClient {
    const known = this.#nodes.get(url);
    if (known !== undefined) return known;
    const { internalToken, limits, log } = this.#options;
    const node = new NodeClient(url, internalToken, connectionsFor(limits), log);
    this.#nodes.set(url, node);
    return node;
  }
}
