/** Forms of PromQL that several dashboards use. */
import type { Query } from "./panels.ts";

/** HAProxy counts its own 429 as intercepted, not as denied. No other rule of its public side answers by itself. */
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

/** A quantile of a histogram, one for each value of the labels `by`. */
export function quantile(q: number, histogram: string, by = ""): string {
  const labels = by === "" ? "le" : `${by}, le`;
  const [name = "", selector = ""] = histogram.split(/(?={)/);
  return `histogram_quantile(${q}, sum by (${labels}) (rate(${name}_bucket${selector}[$__rate_interval])))`;
}

/** The mean of a histogram or a summary, one for each value of the labels `by`. */
export function mean(name: string, by: string): string {
  return `${perSecond(`${name}_sum`, by)} / ${perSecond(`${name}_count`, by)}`;
}

/** A counter's gain in a second, one for each value of the labels `by`. */
export function perSecond(counter: string, by = ""): string {
  return `sum${by === "" ? "" : ` by (${by})`} (rate(${counter}[$__rate_interval]))`;
}

/** The share of a counter's gain that `part` selects; no value while the counter gains nothing. */
export function shareOf(counter: string, all: string, part: string): string {
  return `${perSecond(`${counter}{${all},${part}}`)} / (${perSecond(`${counter}{${all}}`)} > 0)`;
}
