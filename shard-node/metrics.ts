/** What a shard node measures. The help of each metric says which question it answers. */
import {
  Gauge,
  Histogram,
  Counter,
  HttpMetrics,
  LATENCY_BUCKETS,
  type Registry,
  SIZE_BUCKETS,
} from "../shared/watch/metrics.ts";
import type { Database, DatabaseObserver } from "../shared/database/database.ts";
import type { LaneObserver, Lanes } from "./decide/lanes.ts";
import type { Activity } from "./store/activity.ts";

export interface NodeMetrics extends LaneObserver, DatabaseObserver {
  shed(reason: "lane_full" | "deadline" | "pool_busy"): void;
  readonly http: HttpMetrics;
  lockWaited(seconds: number): void;
  published(seconds: number): void;
  /** One statement that read events, by who answered it. */
  read(source: "primary" | "replica"): void;
  activity(activity: Activity): void;
  /** Adds the gauges that are read at each scrape. */
  watch(sources: {
    lanes: Lanes;
    databases: readonly Database[];
    databaseUp: () => boolean;
    redisUp: () => boolean;
  }): void;
}

export function createNodeMetrics(registry: Registry): NodeMetrics {
  const registers = [registry];
  const histogram = (name: string, help: string, buckets = LATENCY_BUCKETS) =>
    new Histogram({ name, help, buckets, registers });
  const gauge = (name: string, help: string) => new Gauge({ name, help, registers });

  const batchSize = histogram("onsale_lane_batch_size", "Commands decided in one transaction.", SIZE_BUCKETS);
  const batchDuration = histogram(
    "onsale_lane_batch_duration_seconds",
    "From a batch's start to its commit.",
  );
  const laneWait = histogram("onsale_lane_wait_seconds", "How long a command waits for its batch.");
  const shed = new Counter({
    name: "onsale_shed_total",
    help: "Work refused because it could not be done in time.",
    labelNames: ["reason"] as const,
    registers,
  });
  const shedChildren = {
    lane_full: shed.labels("lane_full"),
    deadline: shed.labels("deadline"),
    pool_busy: shed.labels("pool_busy"),
  };
  // Seen at 0 first, so that the first refusals are seen as a rise.
  for (const child of Object.values(shedChildren)) child.inc(0);
  const poolWait = histogram("onsale_db_pool_wait_seconds", "How long a statement waits for a connection.");
  const poolHold = histogram("onsale_db_pool_hold_seconds", "How long a statement holds a connection.");
  const lockWait = histogram(
    "onsale_db_lock_wait_seconds",
    "How long a batch waits for its events' row locks.",
  );
  const publish = histogram("onsale_snapshot_publish_seconds", "One write of changed snapshots to Redis.");
  const lockWaiters = gauge("onsale_db_lock_waiters", "Backends of this database that wait for a lock.");
  const backends = gauge("onsale_db_backends", "Client backends of this database.");
  const replicaLag = gauge(
    "onsale_db_replica_lag_seconds",
    "Replay lag of the slowest replica; 0 without one.",
  );
  const oldestSnapshot = gauge(
    "onsale_db_oldest_snapshot_seconds",
    "Age of the oldest transaction that keeps PostgreSQL from removing old versions of rows; 0 without one.",
  );

  const reads = new Counter({
    name: "onsale_db_reads_total",
    help: "Statements that read events, by the server that answered.",
    labelNames: ["source"] as const,
    registers,
  });
  for (const source of ["primary", "replica"] as const) reads.inc({ source }, 0);
  const readsFrom = { primary: reads.labels("primary"), replica: reads.labels("replica") };

  return {
    http: new HttpMetrics(registry),
    batchStarted: (size) => batchSize.observe(size),
    batchEnded: (seconds) => batchDuration.observe(seconds),
    commandWaited: (seconds) => laneWait.observe(seconds),
    shed: (reason) => shedChildren[reason].inc(),
    waited: (seconds) => poolWait.observe(seconds),
    held: (seconds) => poolHold.observe(seconds),
    lockWaited: (seconds) => lockWait.observe(seconds),
    published: (seconds) => publish.observe(seconds),
    read: (source) => readsFrom[source].inc(),
    activity(sample) {
      backends.set(sample.backends);
      lockWaiters.set(sample.lockWaiters);
      replicaLag.set(sample.replicaLagSeconds);
      oldestSnapshot.set(sample.oldestSnapshotSeconds);
    },
    watch({ lanes, databases, databaseUp, redisUp }) {
      const sum = (state: keyof Database["pool"]) => () =>
        databases.reduce((total, { pool }) => total + pool[state], 0);
      const read = (name: string, help: string, value: () => number) =>
        new Gauge({
          name,
          help,
          registers,
          collect() {
            this.set(value());
          },
        });
      read("onsale_lane_queue_length", "Commands that wait for a batch.", () => lanes.queueLength);
      read("onsale_db_pool_waiting", "Statements that wait for a connection.", sum("waiting"));
      read("onsale_db_up", "1 when the shard's database answered the last sample.", () =>
        Number(databaseUp()),
      );
      read("onsale_redis_up", "1 while the connection to Redis works.", () => Number(redisUp()));
      new Gauge({
        name: "onsale_db_pool_connections",
        help: "Connections of the pool by state.",
        labelNames: ["state"] as const,
        registers,
        collect() {
          this.set({ state: "busy" }, sum("busy")());
          this.set({ state: "idle" }, sum("idle")());
        },
      });
    },
  };
}
