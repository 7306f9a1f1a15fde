/** The screen to watch during a sale: do we sell, and if not, why? */
import type { DashboardSpec } from "./panels.ts";
import { perSecond, quantile, REFUSED_BY_LOAD_BALANCER, shareOf } from "./queries.ts";

const ASKED = `job="router",method="POST",route=~"/v1/events/.*/(bookings|holds)"`;
const LATENCY = `onsale_http_request_duration_seconds{${ASKED}}`;
/** Servers of each shard that accept writes: they answer and are no replica. */
const PRIMARIES = `sum by (shard) (pg_replication_is_replica{shard!=""} == bool 0)`;

export const onSale: DashboardSpec = {
  uid: "onsale-on-sale",
  title: "On sale",
  asks: "Do we sell, and if not, why?",
  rows: [
    {
      title: "Do we sell?",
      panels: [
        {
          kind: "number",
          title: "Requests",
          asks: "How much is asked of the cluster? Where there is no load balancer, by the routers' figures.",
          unit: "reqps",
          source: "onsale",
          queries: [
            {
              expr: `${perSecond(`haproxy_frontend_http_requests_total{proxy="public"}`)} or ${perSecond(`onsale_http_requests_total{job="router"}`)}`,
              legend: "requests",
            },
          ],
        },
        {
          kind: "number",
          title: "Confirmed bookings",
          asks: "How many bookings, of one ticket or many, are confirmed a second, at once or out of a hold?",
          unit: "suffix:/s",
          source: "onsale",
          queries: [
            {
              expr: perSecond(`onsale_booking_outcomes_total{outcome=~"booked|confirmed"}`),
              legend: "confirmed",
            },
          ],
        },
        {
          kind: "number",
          title: "Answered without a fault",
          asks: "Which share of requests is answered without a 5xx? By the load balancer's figures, which see what no router could answer; without one by the routers'.",
          unit: "percentunit",
          source: "onsale",
          red: { below: 0.9995 },
          queries: [
            {
              expr: [
                shareOf("haproxy_frontend_http_responses_total", `proxy="public"`, `code!="5xx"`),
                shareOf("onsale_http_requests_total", `job="router"`, `status!~"5.."`),
              ].join(" or "),
              legend: "answered",
            },
          ],
        },
        {
          kind: "number",
          title: "Bookings within 250 ms",
          asks: "Which share of bookings and holds is answered in time? 99 % is promised.",
          unit: "percentunit",
          source: "onsale",
          red: { below: 0.99 },
          queries: [
            {
              expr: `${perSecond(`onsale_http_request_duration_seconds_bucket{${ASKED},le="0.25"}`)} / (${perSecond(`onsale_http_request_duration_seconds_count{${ASKED}}`)} > 0)`,
              legend: "in time",
            },
          ],
        },
        {
          kind: "number",
          title: "Rows that break a rule",
          asks: "What has the last audit of all shards found? Unknown when it is more than an hour old.",
          unit: "short",
          source: "onsale",
          red: { from: 1 },
          queries: [
            {
              expr: "sum(onsale_audit_violations) and time() - max(onsale_audit_last_run_timestamp_seconds) < 3600",
              legend: "rows",
            },
          ],
        },
        {
          kind: "number",
          title: "Age of the audit",
          asks: "How long ago did an audit of all shards end?",
          unit: "s",
          source: "onsale",
          red: { from: 3600 },
          queries: [
            {
              expr: "time() - (max(onsale_audit_last_run_timestamp_seconds) > 0)",
              legend: "since the audit",
            },
          ],
        },
      ],
    },
    {
      title: "Why not?",
      panels: [
        {
          kind: "number",
          title: "Shards down",
          asks: "How many shards have no node that answers and reaches its database?",
          unit: "short",
          source: "onsale",
          red: { from: 1 },
          queries: [
            {
              expr: `sum((max by (shard) (onsale_db_up) or max by (shard) (up{job="node"})) == bool 0)`,
              legend: "down",
            },
          ],
        },
        {
          kind: "number",
          title: "Breakers open",
          asks: "How often does a router leave a shard alone now? Once for each router and shard.",
          unit: "short",
          source: "onsale",
          red: { from: 1 },
          queries: [{ expr: "sum(onsale_shard_breaker_open)", legend: "open" }],
        },
        {
          kind: "number",
          title: "Routers ready",
          asks: "To how many routers does the load balancer send requests?",
          unit: "short",
          source: "servers",
          red: { below: 1 },
          queries: [{ expr: `sum(haproxy_backend_active_servers{proxy="routers"})`, legend: "ready" }],
        },
        {
          kind: "number",
          title: "Primaries per shard",
          asks: "Has each shard one primary? None cannot sell; two may sell a ticket twice.",
          unit: "short",
          source: "servers",
          red: { below: 1, from: 2 },
          queries: [
            { expr: `min(${PRIMARIES})`, legend: "fewest" },
            { expr: `max(${PRIMARIES})`, legend: "most" },
          ],
        },
        {
          kind: "number",
          title: "Longest lane queue",
          asks: "How many commands wait for their batch on the node where most do?",
          unit: "short",
          source: "onsale",
          red: { from: 2500 },
          queries: [{ expr: "max(onsale_lane_queue_length)", legend: "commands" }],
        },
        {
          kind: "number",
          title: "Refused for want of time or room",
          asks: "How much work is refused because it could not be done in time, or had no room?",
          unit: "suffix:/s",
          source: "onsale",
          red: { from: 1 },
          queries: [{ expr: perSecond(`onsale_shed_total{reason!="rate_limited"}`), legend: "refused" }],
        },
        {
          kind: "series",
          title: "Alerts that fire",
          asks: "What is known to be wrong, and where? A page wakes somebody; its section of the runbook says what to do.",
          source: "onsale",
          sortBy: "severity",
          queries: [
            {
              expr: `count by (severity, alertname, shard, server, instance) (ALERTS{alertstate="firing"}) or on () vector(0)`,
              legend: "",
            },
          ],
        },
      ],
    },
    {
      title: "Since when?",
      panels: [
        {
          kind: "lines",
          title: "Offered and confirmed",
          asks: "How many bookings and holds are asked for, and how many are given? A hold is offered and held, and if it is confirmed later, it is a line of its own.",
          unit: "suffix:/s",
          source: "onsale",
          queries: [
            { expr: perSecond(`onsale_http_requests_total{${ASKED}}`), legend: "offered" },
            {
              expr: perSecond(`onsale_booking_outcomes_total{outcome=~"booked|held"}`, "outcome"),
              legend: "{{outcome}}",
            },
            {
              expr: perSecond(`onsale_booking_outcomes_total{outcome="confirmed"}`),
              legend: "confirmed, of those held before",
            },
          ],
        },
        {
          kind: "lines",
          title: "Refused, by reason",
          asks: "Why is nothing sold to whom nothing is sold?",
          unit: "reqps",
          source: "onsale",
          queries: [
            {
              expr: perSecond(
                `onsale_booking_outcomes_total{outcome!~"booked|held|confirmed|replayed|cancelled"}`,
                "outcome",
              ),
              legend: "{{outcome}}",
            },
            { expr: perSecond("onsale_sold_out_fast_rejects_total"), legend: "sold_out, from memory" },
          ],
        },
        {
          kind: "lines",
          title: "Latency of bookings",
          asks: "How long does a buyer wait for yes or no?",
          unit: "s",
          source: "onsale",
          queries: [
            { expr: quantile(0.5, LATENCY), legend: "p50" },
            { expr: quantile(0.99, LATENCY), legend: "p99" },
          ],
        },
      ],
    },
    {
      title: "The hottest events",
      panels: [
        {
          kind: "table",
          title: "The hottest events",
          asks: "What do people want now, and how much of it is left? Of the shard's newest bookings, at most a minute old.",
          sql: "select * from hottest_events",
        },
      ],
    },
    {
      title: "What was promised",
      panels: [
        {
          kind: "lines",
          title: "Burn rate of the budget: slow bookings",
          asks: "How many times faster than the promise allows are bookings slow? At 1 the budget lasts 30 days.",
          unit: "short",
          source: "onsale",
          queries: [
            { expr: "onsale:bookings_slow:ratio_rate5m / 0.01", legend: "5 minutes" },
            { expr: "onsale:bookings_slow:ratio_rate1h / 0.01", legend: "1 hour" },
          ],
        },
        {
          kind: "lines",
          title: "Burn rate of the budget: failed requests",
          asks: "How many times faster than the promise allows do requests fail? At 1 the budget lasts 30 days.",
          unit: "short",
          source: "servers",
          queries: [
            { expr: "onsale:requests_failed:ratio_rate5m / 0.0005", legend: "5 minutes" },
            { expr: "onsale:requests_failed:ratio_rate1h / 0.0005", legend: "1 hour" },
          ],
        },
        {
          kind: "lines",
          title: "Answers of the load balancer",
          asks: "What do clients get, also when no router is there? Its own 429 is among the 4xx.",
          unit: "reqps",
          source: "servers",
          queries: [
            {
              expr: perSecond(`haproxy_frontend_http_responses_total{proxy="public"}`, "code"),
              legend: "{{code}}",
            },
            ...REFUSED_BY_LOAD_BALANCER,
          ],
        },
      ],
    },
    {
      title: "Booking requests in the queue",
      panels: [
        {
          kind: "lines",
          title: "Requests that wait",
          asks: "How many booking requests has nobody decided yet?",
          unit: "short",
          source: "onsale",
          queries: [{ expr: "max by (shard) (onsale_queue_depth)", legend: "{{shard}}" }],
        },
        {
          kind: "lines",
          title: "Age of the oldest",
          asks: "How long has the first of them waited? After five minutes it lapses.",
          unit: "s",
          source: "onsale",
          queries: [{ expr: "max by (shard) (onsale_queue_oldest_seconds)", legend: "{{shard}}" }],
        },
        {
          kind: "lines",
          title: "Requests that left the queue",
          asks: "How many are decided in a second, and do any lapse or go to the dead letters?",
          unit: "reqps",
          source: "onsale",
          queries: [{ expr: perSecond("onsale_queue_requests_total", "result"), legend: "{{result}}" }],
        },
      ],
    },
    {
      title: "k6, while it runs and writes to Prometheus",
      panels: [
        {
          kind: "lines",
          title: "Arrivals",
          asks: "How many requests does k6 send, and how many arrivals has it dropped?",
          unit: "reqps",
          source: "k6",
          queries: [
            { expr: perSecond("k6_http_reqs_total", "name"), legend: "{{name}}" },
            { expr: perSecond("k6_iterations_total", "scenario"), legend: "iterations, {{scenario}}" },
          ],
        },
        {
          kind: "lines",
          title: "Latency that k6 saw",
          asks: "How long does k6 wait for an answer, from when it sends?",
          unit: "s",
          source: "k6",
          queries: [{ expr: "max by (name) (k6_http_req_duration_p99)", legend: "p99, {{name}}" }],
        },
        {
          kind: "lines",
          title: "Checks and VUs",
          asks: "Are all answers what the contract says, and how many iterations are under way?",
          unit: "short",
          source: "k6",
          queries: [
            { expr: "min(k6_checks_rate)", legend: "share of checks that hold" },
            { expr: "sum(k6_vus)", legend: "VUs" },
          ],
        },
      ],
    },
  ],
};
