/** Forms of PromQL that the dashboards use again and again. */
import type { Query } from "./panels.ts";

/** HAProxy counts a 429 of its own as intercepted, not as denied: its public side makes no other answer by a rule. */
export const REFUSED_BY_LOAD_BALANCER: readonly Query[] = [
  {
    expr: perSecond(`haproxy_frontend_intercepted_requests_total{proxy="public"}`),
    legend: "its own 429",
  },
  {
    expr: perSecond(`haproxy_frontend_denied_connections_total{proxy="public"}`),
    legend: "connections refused",
  },
];

/** A quantile of a histogram over the moment that Grafana draws, apart by `by`. */
export function quantile(q: number, histogram: string, by = ""): string {
  const labels = by === "" ? "le" : `${by}, le`;
  const [name = "", selector = ""] = histogram.split(/(?={)/);
  return `histogram_quantile(${q}, sum by (${labels}) (rate(${name}_bucket${selector}[$__rate_interval])))`;
}

/** The mean of what a histogram or a summary has seen, apart by `by`. */
export function mean(name: string, by: string): string {
  return `${perSecond(`${name}_sum`, by)} / ${perSecond(`${name}_count`, by)}`;
}

/** What a counter gains a second, apart by `by`. */
export function perSecond(counter: string, by = ""): string {
  return `sum${by === "" ? "" : ` by (${by})`} (rate(${counter}[$__rate_interval]))`;
}

/** The share of what a counter gains that `part` selects; nothing while it gains nothing. */
export function shareOf(counter: string, all: string, part: string): string {
  return `${perSecond(`${counter}{${all},${part}}`)} / (${perSecond(`${counter}{${all}}`)} > 0)`;
}
