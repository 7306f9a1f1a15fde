/**
 * Keeps the tables that serve as new as the shards are: follows every shard's log, and has the tables rebuilt when there are
 * none, when they are of an older version, and when what was followed is not the shard's history any more.
 */
import type { Database } from "../../shared/database/database.ts";
import type { Change } from "../../shared/domain/changes.ts";
import type { ShardId } from "../../shared/domain/ids.ts";
import { repeat, type Repeated } from "../../shared/process/repeat.ts";
import { Outage } from "../../shared/process/outage.ts";
import { type Found, findTables, thaw, VIEWS_VERSION } from "../views/tables.ts";
import { Writer } from "../views/writing.ts";
import type { Arrivals } from "./arrivals.ts";
import { Follower, rest } from "./follower.ts";
import { rebuild, type RebuildParts } from "./rebuild.ts";

const LOOK_MS = 1_000;
/** When everything starts together, the database may be there a little later. */
const START_GRACE_MS = 10_000;
/** How soon somebody who waits hears of what another process has written. */
const LOOK_FOR_WAITERS_MS = 50;

export interface UpkeepParts extends RebuildParts {
  /** For looking at the tables; no flood of questions may delay that. */
  readonly checks: Database;
  readonly arrivals: Arrivals;
  /** Hears of changes that have just come in. */
  readonly applied: (changes: readonly Change[]) => void;
}

export class Upkeep {
  readonly #parts: UpkeepParts;
  readonly #stopping = new AbortController();
  readonly #outage: Outage;
  #looking: Repeated | undefined;
  #running: Promise<void> | undefined;
  #rebuilding: Promise<void> | undefined;
  #found: Found | undefined;
  /** Whether the last look at the tables succeeded. */
  #isKnown = false;
  #wasKnown = false;
  #unready: string | undefined = "nothing is known of the tables yet";

  constructor(parts: UpkeepParts) {
    this.#parts = parts;
    this.#outage = new Outage(parts.log, "the database of the read side");
  }

  /** The tables when they were last looked at, or written. */
  get found(): Found | undefined {
    return this.#found;
  }

  /** Why there is nothing to serve from, or undefined. */
  get unready(): string | undefined {
    return this.#unready;
  }

  get isRebuilding(): boolean {
    return this.#rebuilding !== undefined;
  }

  start(): void {
    const { arrivals } = this.#parts;
    const began = performance.now();
    let lookedAt = Number.NEGATIVE_INFINITY;
    const look = async (): Promise<void> => {
      if (arrivals.waiting === 0 && performance.now() - lookedAt < LOOK_MS) return;
      await this.#look();
      lookedAt = performance.now();
    };
    this.#looking = repeat(look, LOOK_FOR_WAITERS_MS, (error) => {
      lookedAt = performance.now();
      this.#isKnown = false;
      this.#unready = "the database does not answer";
      if (this.#wasKnown || lookedAt - began > START_GRACE_MS) this.#outage.failed(error);
    });
    this.#running = this.#run();
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await Promise.all([this.#looking?.stop(), this.#running, this.#rebuilding]);
  }

  async #look(): Promise<void> {
    const { checks, arrivals } = this.#parts;
    const found = await findTables(checks);
    if (found?.build === null) await thaw(checks);
    this.#found = found;
    this.#isKnown = this.#wasKnown = true;
    this.#outage.worked();
    this.#unready = problemOf(found);
    if (this.#unready !== undefined) return;
    for (const [shard, { position, copied }] of Object.entries(found?.positions ?? {}))
      if (copied === null) arrivals.reached(shard as ShardId, position);
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    while (!signal.aborted) {
      const found = this.#found;
      const build = found?.build ?? undefined;
      if (this.#unready === undefined && build !== undefined) await this.#followAll(build);
      else if (!this.#isKnown || !needsRebuild(found)) await rest(LOOK_FOR_WAITERS_MS, signal);
      else {
        this.#startRebuild(needsRebuild);
        await this.#rebuilding;
      }
    }
  }

  /** Follows every shard until other tables are in the place of these. */
  async #followAll(build: string): Promise<void> {
    const { database, nodes, arrivals, applied } = this.#parts;
    const ending = new AbortController();
    const signal = AbortSignal.any([this.#stopping.signal, ending.signal]);
    const writer = new Writer(database, "views", build);
    const followers = new Map<ShardId, Promise<void>>();
    const follow = async (shard: ShardId): Promise<void> => {
      const follower = new Follower({
        ...this.#parts,
        shard,
        nodes: () => nodes.of(shard),
        writer,
        reached: (which, at, changes) => {
          if (this.#found !== undefined)
            this.#found = { ...this.#found, positions: { ...this.#found.positions, [which]: at } };
          if (at.copied !== null) return;
          arrivals.reached(which, at.position);
          applied(changes);
        },
      });
      const end = await follower.run(signal);
      if (end === "replaced") ending.abort();
      // What is there is served on meanwhile, as far as it has come.
      else if (end === "dropped") this.#startRebuild((found) => found?.build === build);
    };
    while (!signal.aborted) {
      for (const shard of nodes.map?.owning ?? [])
        if (!followers.has(shard)) followers.set(shard, follow(shard));
      await rest(LOOK_FOR_WAITERS_MS, signal);
      const isOther = this.#unready !== undefined || (this.#found?.build ?? build) !== build;
      if (this.#isKnown && isOther) ending.abort();
    }
    await Promise.all(followers.values());
    await this.#look().catch(() => undefined);
  }

  /** One at a time; it is tried again until it is not needed any more. */
  #startRebuild(isNeeded: (found: Found | undefined) => boolean): void {
    const { signal } = this.#stopping;
    const run = async (): Promise<void> => {
      const outage = new Outage(this.#parts.log, "rebuilding the tables");
      while (!signal.aborted) {
        try {
          await rebuild(this.#parts, isNeeded, signal);
          if (!isNeeded(await findTables(this.#parts.checks))) break;
        } catch (error) {
          outage.failed(error);
        }
        await rest(LOOK_MS, signal);
      }
      await this.#look().catch(() => undefined);
    };
    this.#rebuilding ??= run().finally(() => (this.#rebuilding = undefined));
  }
}

/** There are no tables, or they are older than this version. Never newer ones: another version may need them. */
function needsRebuild(found: Found | undefined): boolean {
  return found === undefined || found.version < VIEWS_VERSION;
}

function problemOf(found: Found | undefined): string | undefined {
  if (found === undefined) return "the tables are being filled for the first time";
  if (found.version < VIEWS_VERSION) return "the tables are of an older version and are being rebuilt";
  if (found.version > VIEWS_VERSION) return "the tables are of a newer version";
  return undefined;
}
