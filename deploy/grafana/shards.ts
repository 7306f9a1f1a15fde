/** Where does the time of a booking go, on each shard? */
import type { DashboardSpec, Lines, Query } from "./panels.ts";
import { mean, perSecond, quantile } from "./queries.ts";

/** Most panels here draw one line a shard, or a few. */
function lines(
  title: string,
  asks: string,
  unit: Lines["unit"],
  source: Lines["source"],
  ...queries: readonly Query[]
): Lines {
  return { kind: "lines", title, asks, unit, source, queries };
}

function quantiles(histogram: string): Query[] {
  return [0.5, 0.99].map((q) => ({
    expr: quantile(q, histogram, "shard"),
    legend: `p${q * 100} {{shard}}`,
  }));
}

export const shards: DashboardSpec = {
  uid: "onsale-shards",
  title: "Shards",
  asks: "Where does the time of a booking go, on each shard?",
  rows: [
    {
      title: "Lanes and batches",
      panels: [
        lines("Commands", "How much does each shard decide?", "reqps", "onsale", {
          expr: perSecond("onsale_lane_batch_size_sum", "shard"),
          legend: "{{shard}}",
        }),
        lines("Batch size", "How many commands share a transaction? It grows with load.", "short", "onsale", {
          expr: mean("onsale_lane_batch_size", "shard"),
          legend: "{{shard}}",
        }),
        lines(
          "Batch duration",
          "How long does a transaction take, commit included?",
          "s",
          "onsale",
          ...quantiles("onsale_lane_batch_duration_seconds"),
        ),
        lines(
          "Lane wait",
          "How long does a command wait for its batch?",
          "s",
          "onsale",
          ...quantiles("onsale_lane_wait_seconds"),
        ),
        lines("Lane queue", "How many commands wait?", "short", "onsale", {
          expr: "onsale_lane_queue_length",
          legend: "{{shard}} {{instance}}",
        }),
        lines("Refused by nodes", "What was refused for want of time or room?", "reqps", "onsale", {
          expr: perSecond(`onsale_shed_total{job="node"}`, "shard, reason"),
          legend: "{{shard}} {{reason}}",
        }),
      ],
    },
    {
      title: "Locks and connections",
      panels: [
        lines(
          "Lock wait",
          "How long does a batch wait for the rows of its events?",
          "s",
          "onsale",
          ...quantiles("onsale_db_lock_wait_seconds"),
        ),
        lines("Waiting for a lock", "How many backends wait for any lock?", "short", "onsale", {
          expr: "max by (shard) (onsale_db_lock_waiters)",
          legend: "{{shard}}",
        }),
        lines("Pool", "How many connections of nodes are busy, how many idle?", "short", "onsale", {
          expr: `sum by (shard, state) (onsale_db_pool_connections{job="node"})`,
          legend: "{{shard}} {{state}}",
        }),
        lines(
          "Pool wait",
          "How long does a statement wait for a connection?",
          "s",
          "onsale",
          ...quantiles(`onsale_db_pool_wait_seconds{job="node"}`),
        ),
        lines(
          "Pool hold",
          "How long does a statement hold its connection?",
          "s",
          "onsale",
          ...quantiles(`onsale_db_pool_hold_seconds{job="node"}`),
        ),
        lines(
          "Waiting for a connection",
          "How many statements wait, and how many backends are there?",
          "short",
          "onsale",
          { expr: `sum by (shard) (onsale_db_pool_waiting{job="node"})`, legend: "{{shard}} waiting" },
          { expr: "max by (shard) (onsale_db_backends)", legend: "{{shard}} backends" },
        ),
        lines(
          "PgBouncer",
          "How many clients wait in it, and how many servers are busy?",
          "short",
          "servers",
          {
            expr: `sum by (instance) (pgbouncer_pools_client_waiting_connections{database!="pgbouncer"})`,
            legend: "{{instance}} waiting",
          },
          {
            expr: `sum by (instance) (pgbouncer_pools_server_active_connections{database!="pgbouncer"})`,
            legend: "{{instance}} busy",
          },
        ),
      ],
    },
    {
      title: "Nodes and replicas",
      panels: [
        lines("Database answers", "Does the shard's database answer its node?", "short", "onsale", {
          expr: "onsale_db_up",
          legend: "{{shard}} {{instance}}",
        }),
        lines("Replica lag", "How far is the slowest replica behind?", "s", "onsale", {
          expr: "max by (shard) (onsale_db_replica_lag_seconds)",
          legend: "{{shard}}",
        }),
        lines("Oldest snapshot", "For how long are old versions of rows kept?", "s", "onsale", {
          expr: "max by (shard) (onsale_db_oldest_snapshot_seconds)",
          legend: "{{shard}}",
        }),
        lines("Event loop of nodes", "Does a node get to its work?", "s", "onsale", {
          expr: `nodejs_eventloop_lag_p99_seconds{job="node"}`,
          legend: "{{shard}} {{instance}}",
        }),
        lines("Processor of nodes", "How many cores does a node use?", "short", "onsale", {
          expr: `rate(process_cpu_seconds_total{job="node"}[$__rate_interval])`,
          legend: "{{shard}} {{instance}}",
        }),
        lines("Memory of nodes", "Does a node grow?", "bytes", "onsale", {
          expr: `process_resident_memory_bytes{job="node"}`,
          legend: "{{shard}} {{instance}}",
        }),
      ],
    },
    {
      title: "Log of changes",
      panels: [
        lines(
          "Followers behind",
          "How old is the oldest change that a follower does not have?",
          "s",
          "onsale",
          {
            expr: "max by (shard) (onsale_log_lag_seconds)",
            legend: "{{shard}}",
          },
        ),
        lines("Followers", "How many follow the log?", "short", "onsale", {
          expr: "sum by (shard) (onsale_log_followers)",
          legend: "{{shard}}",
        }),
        lines("Bookings followed", "How many bookings do followers get?", "ops", "onsale", {
          expr: perSecond("onsale_log_answer_bookings_sum", "shard"),
          legend: "{{shard}}",
        }),
        lines("Not published", "How old is the oldest change that RabbitMQ does not have?", "s", "onsale", {
          expr: "max by (shard) (onsale_publisher_lag_seconds)",
          legend: "{{shard}}",
        }),
        lines("Published", "Do messages with changes get to RabbitMQ?", "ops", "onsale", {
          expr: perSecond("onsale_changes_published_total", "shard, result"),
          legend: "{{shard}} {{result}}",
        }),
        lines("Webhooks", "Do the targets of webhooks hear of changes?", "ops", "onsale", {
          expr: perSecond("onsale_webhook_deliveries_total", "shard, result"),
          legend: "{{shard}} {{result}}",
        }),
        lines("Webhooks wait", "How many deliveries are still to be made?", "short", "onsale", {
          expr: "max by (shard) (onsale_webhook_backlog)",
          legend: "{{shard}}",
        }),
        lines("Kept", "How old is the oldest change that is kept?", "s", "onsale", {
          expr: "max by (shard) (onsale_log_kept_seconds)",
          legend: "{{shard}}",
        }),
      ],
    },
    {
      title: "Read side",
      panels: [
        lines("Read side behind", "How old is what it answers?", "s", "onsale", {
          expr: "max by (shard) (onsale_read_side_lag_seconds)",
          legend: "{{shard}}",
        }),
        lines(
          "Freshness",
          "How long after a change can it be read? Less than a second is promised.",
          "s",
          "onsale",
          ...[0.5, 0.99].map((q) => ({
            expr: quantile(q, "onsale_read_side_freshness_seconds"),
            legend: `p${q * 100}`,
          })),
        ),
        lines(
          "Answered by the read side",
          "What do routers ask it, and does it refuse? 503 is too old, or a database that does not answer.",
          "reqps",
          "onsale",
          {
            expr: perSecond(`onsale_http_requests_total{job="read-side"}`, "route, status"),
            legend: "{{route}} {{status}}",
          },
        ),
        lines(
          "Up",
          "Does it answer Prometheus, and did it answer each router?",
          "short",
          "onsale",
          { expr: `up{job="read-side"}`, legend: "{{instance}}" },
          { expr: "onsale_read_side_up", legend: "for {{instance}}" },
        ),
        lines("Rebuilding", "Are new tables being filled?", "short", "onsale", {
          expr: "max by (instance) (onsale_read_side_rebuilding)",
          legend: "{{instance}}",
        }),
        lines(
          "Lists that wait, and exports",
          "How many lists wait for a change, how many exports are being written, and how many statements wait for a connection?",
          "short",
          "onsale",
          { expr: "sum(onsale_read_side_waiting)", legend: "lists" },
          { expr: "sum(onsale_read_side_exports)", legend: "exports" },
          { expr: `sum(onsale_db_pool_waiting{job="read-side"})`, legend: "statements" },
        ),
      ],
    },
    {
      title: "PostgreSQL",
      panels: [
        lines(
          "Answers",
          "Does each server answer, and who is a replica?",
          "short",
          "servers",
          { expr: "pg_up", legend: "{{server}}" },
          { expr: "pg_replication_is_replica", legend: "{{server}} is a replica" },
        ),
        lines(
          "Transactions",
          "How many are committed and rolled back?",
          "ops",
          "servers",
          {
            expr: perSecond("pg_stat_database_xact_commit", "server"),
            legend: "{{server}} committed",
          },
          {
            expr: perSecond("pg_stat_database_xact_rollback", "server"),
            legend: "{{server}} rolled back",
          },
        ),
        lines("Connections", "How many of the connections are used?", "percentunit", "servers", {
          expr: "sum by (server) (pg_stat_activity_count) / max by (server) (pg_settings_max_connections)",
          legend: "{{server}}",
        }),
        lines(
          "Out of memory",
          "Which share of blocks is found in shared buffers?",
          "percentunit",
          "servers",
          {
            expr: `${perSecond("pg_stat_database_blks_hit", "server")} / (${perSecond("pg_stat_database_blks_hit", "server")} + ${perSecond("pg_stat_database_blks_read", "server")} > 0)`,
            legend: "{{server}}",
          },
        ),
        lines("Size", "How large are the databases?", "bytes", "servers", {
          expr: "sum by (server) (pg_database_size_bytes)",
          legend: "{{server}}",
        }),
        lines("Free disk", "Which share of the disk under each database is free?", "percentunit", "servers", {
          expr: `node_filesystem_avail_bytes{job="disk"} / node_filesystem_size_bytes{job="disk"}`,
          legend: "{{mountpoint}}",
        }),
      ],
    },
  ],
};
