/**
 * The shards as a router sees them: the newest map, and a client for each shard. A router asks the nodes for the map every
 * second, and at once when a node refuses a slot; then it reroutes the request, once (R4).
 */
import { type BookingId, type EventId, type ShardId, slotOfBooking } from "../../shared/domain/ids.ts";
import type { Log } from "../../shared/process/log.ts";
import { ownerOf, type ShardMap } from "../../shared/domain/shard-map.ts";
import { type Slot, slotOf } from "../../shared/domain/slots.ts";
import { Nodes } from "../../shared/wire/nodes.ts";
import type { Span } from "../../shared/watch/tracing.ts";
import type { Booking } from "../../shared/domain/bookings.ts";
import {
  type ChangeEventRequest,
  type CreateEventRequest,
  type EventResult,
  type ReadResult,
  type WebhooksRequest,
  type WebhooksResult,
} from "../../shared/wire/rpc.ts";
import type { Command } from "../../shared/domain/commands.ts";
import type { CommandResult, Failure } from "../../shared/domain/outcomes.ts";
import type { RequestState } from "../../shared/domain/requests.ts";
import type { Event, Snapshot } from "../../shared/domain/events.ts";
import { connectionsFor, ShardClient, type ShardClientOptions } from "./shard-client.ts";

export interface ClusterOptions extends Omit<ShardClientOptions, "mapSeen"> {
  /** Nodes to ask for the map before one is known. */
  readonly seedUrls: readonly string[];
  readonly internalToken: string;
  readonly log: Log;
}

export class Cluster {
  readonly #options: ClusterOptions;
  readonly #nodes: Nodes;
  readonly #shards = new Map<ShardId, ShardClient>();

  constructor(options: ClusterOptions) {
    this.#options = options;
    this.#nodes = new Nodes({
      ...options,
      connections: connectionsFor(options.limits),
      changed: (map) => this.#use(map),
    });
  }

  /**
   * Why clients had better ask another router, or undefined. One node that answers is enough: its router serves what it can.
   * A router that reaches none refuses everything at once, so a load balancer would take it for the one with the least to do.
   */
  get unready(): string | undefined {
    return this.#nodes.unready;
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
    return this.#nodes.map && ownerOf(this.#nodes.map, slot);
  }

  async createEvent(request: CreateEventRequest, span?: Span): Promise<EventResult> {
    return this.#routed(slotOf(request.id), async (shard) => shard.createEvent(request, span));
  }

  async changeEvent(request: ChangeEventRequest, span?: Span): Promise<EventResult> {
    return this.#routed(slotOf(request.id), async (shard) => shard.changeEvent(request, span));
  }

  async webhooks(request: WebhooksRequest, span?: Span): Promise<WebhooksResult> {
    return this.#routed(slotOf(request.eventId), async (shard) => shard.webhooks(request, span));
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
    const { owning } = this.#nodes.map ?? {};
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
    return this.#nodes.refresh();
  }

  async close(): Promise<void> {
    await this.#nodes.close();
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
    const { map } = this.#nodes;
    const shard = map && this.#shards.get(ownerOf(map, slot));
    return shard === undefined ? { outcome: "shard_unavailable" } : ask(shard);
  }

  #use(map: ShardMap): void {
    for (const id of map.nodeUrls.keys()) {
      const shard =
        this.#shards.get(id) ?? new ShardClient(id, { ...this.#options, mapSeen: (v) => this.#mapSeen(v) });
      this.#shards.set(id, shard);
      const nodes = this.#nodes.of(id);
      if (nodes.length > 0) shard.useNodes(nodes);
    }
  }

  #mapSeen(version: number): void {
    const known = this.#nodes.map;
    if (known !== undefined && version > known.version) void this.refreshMap();
  }
}
