/** Do we sell, and if not, why? The one screen to look at during a sale. */
import type { DashboardSpec } from "./panels.ts";
import { perSecond, quantile } from "./queries.ts";

const ASKED = `job="router",method="POST",route=~"/v1/events/.*/(bookings|holds)"`;
const LATENCY = `onsale_http_request_duration_seconds{${ASKED}}`;

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
          title: "Alerts that fire",
          asks: "Is something known to be wrong?",
          unit: "short",
          source: "onsale",
          queries: [{ expr: `count(ALERTS{alertstate="firing"}) or vector(0)`, legend: "alerts" }],
        },
        {
          kind: "number",
          title: "Confirmed bookings",
          asks: "How many tickets' bookings are confirmed a second, at once or out of a hold?",
          unit: "reqps",
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
          asks: "Which share of requests do routers answer without a 5xx?",
          unit: "percentunit",
          source: "onsale",
          queries: [
            {
              expr: `${perSecond(`onsale_http_requests_total{job="router",status!~"5.."}`)} / ${perSecond(`onsale_http_requests_total{job="router"}`)}`,
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
          queries: [
            {
              expr: `${perSecond(`onsale_http_request_duration_seconds_bucket{${ASKED},le="0.25"}`)} / ${perSecond(`onsale_http_request_duration_seconds_count{${ASKED}}`)}`,
              legend: "in time",
            },
          ],
        },
        {
          kind: "number",
          title: "Rows that break a rule",
          asks: "What has the last audit of all shards found?",
          unit: "short",
          source: "onsale",
          queries: [{ expr: "sum(onsale_audit_violations)", legend: "rows" }],
        },
        {
          kind: "number",
          title: "Age of the audit",
          asks: "How long ago did an audit of all shards end?",
          unit: "s",
          source: "onsale",
          queries: [
            { expr: "time() - max(onsale_audit_last_run_timestamp_seconds)", legend: "since the audit" },
          ],
        },
        {
          kind: "lines",
          title: "Offered and confirmed",
          asks: "How many bookings and holds are asked for, and how many are given?",
          unit: "reqps",
          source: "onsale",
          queries: [
            { expr: perSecond(`onsale_http_requests_total{${ASKED}}`), legend: "offered" },
            {
              expr: perSecond(`onsale_booking_outcomes_total{outcome=~"booked|held|confirmed"}`, "outcome"),
              legend: "{{outcome}}",
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
          asks: "What do clients get, also when no router is there?",
          unit: "reqps",
          source: "servers",
          queries: [
            {
              expr: perSecond(`haproxy_frontend_http_responses_total{proxy="public"}`, "code"),
              legend: "{{code}}",
            },
          ],
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
