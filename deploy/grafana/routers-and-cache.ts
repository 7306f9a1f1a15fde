/** What do routers do, and how much of it do the caches take off the shards? */
import type { DashboardSpec } from "./panels.ts";
import { mean, perSecond, quantile, REFUSED_BY_LOAD_BALANCER } from "./queries.ts";

export const routersAndCache: DashboardSpec = {
  uid: "onsale-routers-and-cache",
  title: "Routers and cache",
  asks: "What do routers do, and how much of it do the caches take off the shards?",
  rows: [
    {
      title: "Requests",
      panels: [
        {
          kind: "lines",
          title: "Requests, by route",
          asks: "What is asked?",
          unit: "reqps",
          source: "onsale",
          queries: [
            {
              expr: perSecond(`onsale_http_requests_total{job="router"}`, "method, route"),
              legend: "{{method}} {{route}}",
            },
          ],
        },
        {
          kind: "lines",
          title: "Requests, by answer",
          asks: "What is answered?",
          unit: "reqps",
          source: "onsale",
          queries: [
            { expr: perSecond(`onsale_http_requests_total{job="router"}`, "status"), legend: "{{status}}" },
          ],
        },
        {
          kind: "lines",
          title: "Latency, by route",
          asks: "How long does an answer take (p99)?",
          unit: "s",
          source: "onsale",
          queries: [
            {
              expr: quantile(0.99, `onsale_http_request_duration_seconds{job="router"}`, "method, route"),
              legend: "{{method}} {{route}}",
            },
          ],
        },
        {
          kind: "lines",
          title: "Refused by routers",
          asks: "What was refused for want of time or room, or for asking too often?",
          unit: "reqps",
          source: "onsale",
          queries: [{ expr: perSecond(`onsale_shed_total{job="router"}`, "reason"), legend: "{{reason}}" }],
        },
        {
          kind: "lines",
          title: "Refused tokens",
          asks: "Is an issuer set up wrong, or does somebody forge?",
          unit: "reqps",
          source: "onsale",
          queries: [{ expr: perSecond("onsale_unauthenticated_total", "reason"), legend: "{{reason}}" }],
        },
        {
          kind: "lines",
          title: "Load balancer",
          asks: "How many clients are connected, and how many routers are ready?",
          unit: "short",
          source: "servers",
          queries: [
            { expr: `haproxy_frontend_current_sessions{proxy="public"}`, legend: "sessions" },
            { expr: "haproxy_backend_active_servers", legend: "ready {{proxy}}" },
          ],
        },
        {
          kind: "lines",
          title: "Refused by the load balancer",
          asks: "How much is kept off before a router sees it?",
          unit: "reqps",
          source: "servers",
          queries: REFUSED_BY_LOAD_BALANCER,
        },
      ],
    },
    {
      title: "Cache",
      panels: [
        {
          kind: "lines",
          title: "Found in memory",
          asks: "Which share of event reads does a router answer by itself?",
          unit: "percentunit",
          source: "onsale",
          queries: [
            {
              expr: `${perSecond(`onsale_event_cache_requests_total{tier="memory",result="hit"}`)} / ${perSecond(`onsale_event_cache_requests_total{tier="memory"}`)}`,
              legend: "memory",
            },
          ],
        },
        {
          kind: "lines",
          title: "Event reads, by tier",
          asks: "Which of memory, Redis and shard is asked, and what does it have?",
          unit: "reqps",
          source: "onsale",
          queries: [
            {
              expr: perSecond("onsale_event_cache_requests_total", "tier, result"),
              legend: "{{tier}} {{result}}",
            },
          ],
        },
        {
          kind: "lines",
          title: "Sold out, from memory",
          asks: "How many bookings are refused without asking the shard?",
          unit: "reqps",
          source: "onsale",
          queries: [{ expr: perSecond("onsale_sold_out_fast_rejects_total"), legend: "refused" }],
        },
        {
          kind: "lines",
          title: "Redis is there",
          asks: "Which processes have a connection to Redis?",
          unit: "short",
          source: "onsale",
          queries: [{ expr: "onsale_redis_up", legend: "{{job}} {{instance}}" }],
        },
        {
          kind: "lines",
          title: "Snapshots published",
          asks: "How long does a write of changed events to Redis take (p99)?",
          unit: "s",
          source: "onsale",
          queries: [
            { expr: quantile(0.99, "onsale_snapshot_publish_seconds", "shard"), legend: "{{shard}}" },
          ],
        },
        {
          kind: "lines",
          title: "Redis",
          asks: "How much work does Redis have?",
          unit: "ops",
          source: "servers",
          queries: [{ expr: perSecond("redis_commands_processed_total"), legend: "commands" }],
        },
        {
          kind: "lines",
          title: "Memory of Redis",
          asks: "How full is it?",
          unit: "bytes",
          source: "servers",
          queries: [
            { expr: "redis_memory_used_bytes", legend: "used" },
            { expr: "redis_memory_max_bytes", legend: "limit" },
          ],
        },
      ],
    },
    {
      title: "Calls to shards",
      panels: [
        {
          kind: "lines",
          title: "Calls",
          asks: "How long does a shard take to answer a router (p50, p99)?",
          unit: "s",
          source: "onsale",
          queries: [0.5, 0.99].map((q) => ({
            expr: quantile(q, "onsale_shard_rpc_duration_seconds", "shard"),
            legend: `p${q * 100} {{shard}}`,
          })),
        },
        {
          kind: "lines",
          title: "Carried by a call",
          asks: "How many commands or reads share a call? It grows with load.",
          unit: "short",
          source: "onsale",
          queries: [{ expr: mean("onsale_shard_rpc_batch_size", "shard"), legend: "{{shard}}" }],
        },
        {
          kind: "lines",
          title: "Breakers",
          asks: "Which router leaves a shard alone?",
          unit: "short",
          source: "onsale",
          queries: [{ expr: "onsale_shard_breaker_open", legend: "{{instance}} {{shard}}" }],
        },
      ],
    },
    {
      title: "Processes",
      panels: [
        {
          kind: "lines",
          title: "Event loop of routers",
          asks: "Is there time left (p99 of its lag)? Add routers when it grows.",
          unit: "s",
          source: "onsale",
          queries: [{ expr: `nodejs_eventloop_lag_p99_seconds{job="router"}`, legend: "{{instance}}" }],
        },
        {
          kind: "lines",
          title: "Processor of routers",
          asks: "How many cores does a router use? It is full near 1.",
          unit: "short",
          source: "onsale",
          queries: [
            {
              expr: `rate(process_cpu_seconds_total{job="router"}[$__rate_interval])`,
              legend: "{{instance}}",
            },
          ],
        },
        {
          kind: "lines",
          title: "Memory of routers",
          asks: "Does a router grow?",
          unit: "bytes",
          source: "onsale",
          queries: [
            { expr: `process_resident_memory_bytes{job="router"}`, legend: "{{instance}} resident" },
            { expr: `nodejs_heap_size_used_bytes{job="router"}`, legend: "{{instance}} heap" },
          ],
        },
      ],
    },
  ],
};
