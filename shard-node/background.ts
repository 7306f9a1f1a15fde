/** Everything that a node does by itself, in one table: what, how often, and what happens when it fails. */
import type { Snapshot } from "../shared/domain/events.ts";
import type { Log } from "../shared/process/log.ts";
import { Outage } from "../shared/process/outage.ts";
import { repeat, type Repeated } from "../shared/process/repeat.ts";
import type { Catalog } from "./catalog.ts";
import type { NodeConfig } from "./config.ts";
import type { NodeDatabases } from "./databases.ts";
import type { NodeMetrics } from "./metrics.ts";
import type { Intake } from "./queue/intake.ts";
import type { Replica } from "./read/replica.ts";
import { sampleActivity } from "./store/activity.ts";
import type { BookingStore } from "./store/booking-store.ts";
import { checkWriting } from "./store/write-check.ts";

/** Changes are kept for hours. */
const DROP_EVERY_MS = 10_000;

export interface BackgroundParts {
  readonly config: Pick<
    NodeConfig,
    "HOLD_SWEEP_INTERVAL_MS" | "HOLD_SWEEP_EVENTS_MAX" | "LOG_RETENTION_HOURS"
  >;
  readonly databases: NodeDatabases;
  readonly catalog: Catalog;
  readonly replicas: readonly { readonly name: string; readonly replica: Replica }[];
  readonly store: BookingStore;
  /** undefined without a broker. */
  readonly intake: Intake | undefined;
  readonly changed: (snapshots: readonly Snapshot[]) => void;
  readonly metrics: NodeMetrics;
  readonly log: Log;
}

interface Task {
  /** A failure is logged as "… is away", once; the next success as "… is back". The task runs on in any case. */
  readonly what: string;
  readonly everyMs: number;
  /** Throws when it failed. A skipped run is neither a failure nor a success. */
  readonly run: () => Promise<"skipped" | void>;
}

export class Background {
  readonly #parts: BackgroundParts;
  #running: readonly Repeated[] = [];
  #databaseUp = false;

  constructor(parts: BackgroundParts) {
    this.#parts = parts;
  }

  /** Whether the shard's database took a write at the last check, a second ago. */
  get databaseUp(): boolean {
    return this.#databaseUp;
  }

  start(): void {
    this.#running = this.#tasks().map(({ what, everyMs, run }) => {
      const outage = new Outage(this.#parts.log, what);
      const task = async (): Promise<void> => {
        if ((await run()) !== "skipped") outage.worked();
      };
      return repeat(task, everyMs, (error) => outage.failed(error));
    });
  }

  /** Resolves when the runs under way have ended. */
  async stop(): Promise<void> {
    await Promise.all(this.#running.map(async (task) => task.stop()));
  }

  #tasks(): readonly Task[] {
    const { config, catalog, replicas, intake } = this.#parts;
    return [
      { what: "the catalog", everyMs: 1_000, run: async () => catalog.refresh() },
      { what: "the search for a newer primary", everyMs: 1_000, run: async () => this.#lookForSuccessor() },
      { what: "writing to the shard's database", everyMs: 1_000, run: async () => this.#checkDatabase() },
      ...replicas.map(({ name, replica }) => ({
        what: `the replica ${name}`,
        everyMs: 100,
        run: async () => replica.check(),
      })),
      {
        what: "the sweep of due holds",
        everyMs: config.HOLD_SWEEP_INTERVAL_MS,
        run: async () => this.#sweep(config.HOLD_SWEEP_EVENTS_MAX),
      },
      {
        what: "dropping old changes",
        everyMs: DROP_EVERY_MS,
        run: async () => this.#dropChanges(config.LOG_RETENTION_HOURS),
      },
      ...(intake === undefined
        ? []
        : [
            { what: "the look at the queues", everyMs: 1_000, run: async () => intake.sample() },
            { what: "forgetting old booking requests", everyMs: 60_000, run: async () => this.#prune() },
          ]),
    ];
  }

  async #lookForSuccessor(): Promise<void> {
    const { others, shard } = this.#parts.databases;
    await others.lookForSuccessor();
    for (const database of shard) database.refuseBefore(others.timeline);
  }

  async #checkDatabase(): Promise<void> {
    const { databases, metrics, replicas } = this.#parts;
    try {
      const activity = await sampleActivity(databases.checks);
      const lags = replicas.map(({ replica }) => replica.lagSeconds);
      metrics.activity({ ...activity, replicaLagSeconds: Math.max(activity.replicaLagSeconds, ...lags) });
      await checkWriting(databases.checks);
      this.#databaseUp = true;
    } catch (error) {
      this.#databaseUp = false;
      throw error;
    }
  }

  async #dropChanges(keepHours: number): Promise<"skipped" | void> {
    if (!this.#databaseUp) return "skipped";
    const keptSeconds = await this.#parts.store.dropChanges(keepHours);
    if (keptSeconds === undefined) return "skipped";
    this.#parts.metrics.changesKept(keptSeconds);
    return undefined;
  }

  async #prune(): Promise<"skipped" | void> {
    if (!this.#databaseUp) return "skipped";
    return this.#parts.store.pruneRequests();
  }

  async #sweep(eventsMax: number): Promise<"skipped" | void> {
    const { store, changed } = this.#parts;
    let swept: readonly Snapshot[] = [];
    do {
      if (!this.#databaseUp) return "skipped";
      swept = await store.expireDueHolds(eventsMax);
      changed(swept);
      // Many holds may end together. The sweep does not pause between them.
    } while (swept.length === eventsMax);
    return undefined;
  }
}
