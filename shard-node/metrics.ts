/** What a shard node measures. Each metric answers one question, said in its help. */
import { CONNECTION_SHED } from "../shared/process/connections.ts";
import { HttpMetrics, instruments, type Registry, SIZE_BUCKETS } from "../shared/watch/metrics.ts";
import { REDIS_FAILURES } from "../shared/redis/redis.ts";
import type { Database } from "../shared/database/database.ts";
import type { Lanes } from "./decide/lanes.ts";
import { type Intake, REQUEST_RESULTS } from "./queue/intake.ts";
import { PUBLISHED } from "./queue/change-publisher.ts";
import type { Followers } from "./read/followers.ts";
import type { LogFollower } from "./read/log-follower.ts";
import { DELIVERY_RESULTS, type WebhookDeliveries } from "./webhooks/deliveries.ts";
import type { Activity } from "./store/activity.ts";

interface Watched {
  readonly lanes: Pick<Lanes, "queueLength">;
  readonly followers: Pick<Followers, "open" | "lagSeconds">;
  readonly databases: readonly Pick<Database, "pool">[];
  readonly databaseUp: () => boolean;
  readonly redisUp: () => boolean;
  /** undefined without a broker. */
  readonly intake: Pick<Intake, "depth" | "oldestSeconds" | "up"> | undefined;
  readonly changePublisher: Pick<LogFollower, "lagSeconds"> | undefined;
  readonly webhooks: Pick<WebhookDeliveries, "waiting">;
}

export type NodeMetrics = ReturnType<typeof createNodeMetrics>;

export function createNodeMetrics(registry: Registry) {
  const { histogram, gauge, counters, read } = instruments(registry);
  const batchSize = histogram("onsale_lane_batch_size", "Commands decided in one transaction.", SIZE_BUCKETS);
  const batchDuration = histogram(
    "onsale_lane_batch_duration_seconds",
    "From a batch's start to its commit.",
  );
  const laneWait = histogram("onsale_lane_wait_seconds", "How long a command waits for its batch.");
  const shed = counters("onsale_shed_total", "Work refused because it could not be done in time.", "reason", [
    "lane_full",
    "lane_slow",
    "user_busy",
    "event_locked",
    "deadline",
    "pool_busy",
    "followers_full",
    ...CONNECTION_SHED,
  ]);
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

  const dropped = counters(
    "onsale_snapshots_dropped_total",
    "Snapshots that Redis did not get, because it could not take them for too long or too many waited.",
    "reason",
    ["too_old", "queue_full"],
  );
  const redisFailed = counters(
    "onsale_redis_failures_total",
    "Calls to Redis that failed: is it away, is it full, or does it refuse?",
    "reason",
    REDIS_FAILURES,
  );
  const reads = counters(
    "onsale_db_reads_total",
    "Statements that read events, by the server that answered.",
    "source",
    ["primary", "replica"],
  );

  const changesGiven = histogram(
    "onsale_log_answer_bookings",
    "Bookings in an answer to a follower of the log of changes.",
    SIZE_BUCKETS,
  );
  const changesKept = gauge("onsale_log_kept_seconds", "Age of the oldest change that is kept in the log.");
  const requests = counters(
    "onsale_queue_requests_total",
    "Booking requests that left the queue: decided, too old, or not to be decided by anybody.",
    "result",
    REQUEST_RESULTS,
  );

  const published = counters(
    "onsale_changes_published_total",
    "Messages to the exchange of changes, by what the broker said: does everybody hear of a sale?",
    "result",
    PUBLISHED,
  );
  const skipped = counters(
    "onsale_changes_skipped_total",
    "Times that changes were dropped before a follower inside the node had them.",
    "follower",
    ["publisher", "webhooks"],
  );
  const webhookDeliveries = counters(
    "onsale_webhook_deliveries_total",
    "Tries to tell a webhook: delivered, failed and tried again, given up; and deliveries that a full backlog dropped.",
    "result",
    DELIVERY_RESULTS,
  );

  return {
    http: new HttpMetrics(registry),
    changesPublished: published,
    changesSkipped: skipped,
    webhookDeliveries,
    requestsSettled: requests,
    batchStarted: (size: number) => batchSize.observe(size),
    batchEnded: (seconds: number) => batchDuration.observe(seconds),
    commandWaited: (seconds: number) => laneWait.observe(seconds),
    shed,
    waited: (seconds: number) => poolWait.observe(seconds),
    held: (seconds: number) => poolHold.observe(seconds),
    lockWaited: (seconds: number) => lockWait.observe(seconds),
    redisFailed,
    changesGiven: (bookings: number) => changesGiven.observe(bookings),
    changesKept: (seconds: number) => changesKept.set(seconds),
    dropped,
    published: (seconds: number) => publish.observe(seconds),
    /** A statement read events; `source` is the server that answered. */
    read: reads,
    activity(activity: Activity): void {
      backends.set(activity.backends);
      lockWaiters.set(activity.lockWaiters);
      replicaLag.set(activity.replicaLagSeconds);
      oldestSnapshot.set(activity.oldestSnapshotSeconds);
    },
    /** Figures that are read at each scrape. */
    watch({
      lanes,
      followers,
      databases,
      databaseUp,
      redisUp,
      intake,
      changePublisher,
      webhooks,
    }: Watched): void {
      const sum = (state: keyof Database["pool"]) => () =>
        databases.reduce((total, { pool }) => total + pool[state], 0);
      read("onsale_lane_queue_length", "Commands that wait for a batch.", () => lanes.queueLength);
      read("onsale_log_followers", "Calls of followers of the log that are open.", () => followers.open);
      read(
        "onsale_log_lag_seconds",
        "Age of the oldest change that the slowest follower of the log has not asked beyond; 0 when all have all.",
        () => followers.lagSeconds,
      );
      read(
        "onsale_publisher_lag_seconds",
        "Age of the oldest change that was not published to the broker; 0 when all were, and without a broker.",
        () => changePublisher?.lagSeconds ?? 0,
      );
      read(
        "onsale_webhook_backlog",
        "Deliveries to webhooks of this shard that are not made yet.",
        () => webhooks.waiting,
      );
      read("onsale_db_pool_waiting", "Statements that wait for a connection.", sum("waiting"));
      read("onsale_db_up", "1 when the shard's database took a write at the last check.", () =>
        Number(databaseUp()),
      );
      read("onsale_redis_up", "1 while the connection to Redis works.", () => Number(redisUp()));
      read(
        "onsale_queue_depth",
        "Booking requests that wait for a decision, in the broker and here.",
        () => intake?.depth ?? 0,
      );
      read(
        "onsale_queue_oldest_seconds",
        "Age of the oldest booking request that this node holds; 0 without one.",
        () => intake?.oldestSeconds ?? 0,
      );
      read("onsale_queue_up", "1 while the connection to RabbitMQ works.", () => Number(intake?.up ?? false));
      const states = ["busy", "idle"] as const;
      read(
        "onsale_db_pool_connections",
        "Connections of the pool by state.",
        () => states.map((state) => [state, sum(state)()]),
        "state",
      );
    },
  };
}
