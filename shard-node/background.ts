/** Everything that a node does by itself, in one table: what, how often, and what happens when it fails. */
import { DatabaseError } from "../shared/database/database.ts";
import { serverName } from "../shared/database/url.ts";
import type { Snapshot } from "../shared/domain/events.ts";
import type { Log } from "../shared/process/log.ts";
import { Outage } from "../shared/process/outage.ts";
import { repeat } from "../shared/process/repeat.ts";
import type { Catalog } from "./catalog.ts";
import type { NodeDatabases } from "./databases.ts";
import type { NodeMetrics } from "./metrics.ts";
import type { Replica } from "./read/replica.ts";
import { sampleActivity } from "./store/activity.ts";
import type { BookingStore } from "./store/booking-store.ts";

const CATALOG_REFRESH_MS = 1_000;
const SAMPLE_MS = 1_000;
const SUCCESSOR_CHECK_MS = 1_000;
const REPLICA_CHECK_MS = 100;

export interface BackgroundParts {
  readonly databases: NodeDatabases;
  readonly catalog: Catalog;
  readonly store: Pick<BookingStore, "expireDueHolds">;
  readonly replicas: readonly { readonly url: string; readonly replica: Replica }[];
  readonly metrics: NodeMetrics;
  readonly changed: (snapshots: readonly Snapshot[]) => void;
  readonly sweep: { readonly everyMs: number; readonly eventsMax: number };
  readonly log: Log;
}

export interface Background {
  /** Whether the shard's database answered the last sample. */
  readonly databaseUp: boolean;
  /** Resolves when nothing runs any more. */
  stop(): Promise<void>;
}

interface Task {
  readonly everyMs: number;
  readonly run: () => Promise<void>;
  readonly failed: (error: unknown) => void;
}

export function startBackground(parts: BackgroundParts): Background {
  const { databases, catalog, store, replicas, metrics, changed, sweep, log } = parts;
  const { batches, others, marks } = databases;
  const shardDatabase = new Outage(log, "the shard's database");
  let databaseUp = false;

  /** A task whose failure and recovery stand in the log once each. It resolves to false when it tried nothing. */
  const told = (what: string, everyMs: number, run: () => Promise<unknown>): Task => {
    const outage = new Outage(log, what);
    return {
      everyMs,
      async run() {
        if ((await run()) !== false) outage.worked();
      },
      failed: (error) => outage.failed(error),
    };
  };

  const sample: Task = {
    everyMs: SAMPLE_MS,
    async run() {
      const activity = await sampleActivity(others);
      if (activity !== undefined) {
        const lags = replicas.map(({ replica }) => replica.lagSeconds);
        const replicaLagSeconds = Math.max(activity.replicaLagSeconds, ...lags);
        metrics.activity({ ...activity, replicaLagSeconds });
      }
      databaseUp = true;
      shardDatabase.worked();
    },
    failed(error) {
      // A database that is too busy to be sampled is not away.
      if (error instanceof DatabaseError && error.kind === "busy") return;
      databaseUp = false;
      shardDatabase.failed(error);
    },
  };

  /** Looks whether another server of the shard has become the primary, and then leaves the replaced one. */
  const findSuccessor: Task = {
    everyMs: SUCCESSOR_CHECK_MS,
    async run() {
      await others.lookForSuccessor();
      for (const database of [batches, others, marks]) database.refuseBefore(others.timeline);
    },
    failed: (error) => shardDatabase.failed(error),
  };

  const expireDueHolds = async (): Promise<boolean> => {
    let swept: readonly Snapshot[];
    do {
      if (!databaseUp) return false;
      swept = await store.expireDueHolds(sweep.eventsMax);
      changed(swept);
      // Many holds that end together are expired without a pause.
    } while (swept.length === sweep.eventsMax);
    return true;
  };

  const tasks = [
    told("the catalog", CATALOG_REFRESH_MS, async () => catalog.refresh()),
    ...replicas.map(({ url, replica }) =>
      told(`the replica ${serverName(url)}`, REPLICA_CHECK_MS, async () => replica.check()),
    ),
    sample,
    findSuccessor,
    told("the sweep of due holds", sweep.everyMs, expireDueHolds),
  ].map(({ everyMs, run, failed }) => repeat(run, everyMs, failed));

  return {
    get databaseUp() {
      return databaseUp;
    },
    async stop() {
      await Promise.all(tasks.map(async (task) => task.stop()));
    },
  };
}
