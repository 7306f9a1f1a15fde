/** Forms of PromQL that the dashboards use again and again. */

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
