/** The metrics of a process. The only door to prom-client. Labels come from closed sets, never from an event or a user. */
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from "prom-client";

export type { Registry };

/** A registry with the metrics of the process, the event loop and the garbage collector. */
export function createRegistry(): Registry {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  return registry;
}

/** Seconds, from a fast response out of memory to a missed deadline. */
export const LATENCY_BUCKETS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5];

/** Items in a batch or a call. */
export const SIZE_BUCKETS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];

/**
 * A counter for every request. Each child is a plain number that prom-client receives before a scrape: to tell prom-client
 * each time would cost 0.3 µs.
 */
export class Tally<Label extends string> {
  readonly #counter: Counter<Label>;
  readonly #children = new Map<string, { readonly labels: Record<Label, string>; count: number }>();

  constructor(name: string, help: string, labelNames: readonly Label[], registry: Registry) {
    const collect = (): void => {
      for (const child of this.#children.values()) {
        this.#counter.inc(child.labels, child.count);
        child.count = 0;
      }
    };
    this.#counter = new Counter({ name, help, labelNames, registers: [registry], collect });
  }

  /** The child with these labels. A scrape shows it as 0 until it counts. */
  of(labels: Record<Label, string>): { add(): void } {
    const name = Object.values(labels).join(" ");
    const child = this.#children.get(name) ?? { labels, count: 0 };
    this.#children.set(name, child);
    return { add: () => void (child.count += 1) };
  }
}

/** Durations on their way to a histogram. Each costs four times as much when the histogram gets them one by one. */
class Portion {
  readonly #histogram: { observe(seconds: number): void };
  readonly #waiting = new Float64Array(256);
  #count = 0;

  constructor(histogram: { observe(seconds: number): void }) {
    this.#histogram = histogram;
  }

  add(seconds: number): void {
    this.#waiting[this.#count] = seconds;
    this.#count += 1;
    if (this.#count === this.#waiting.length) this.flush();
  }

  flush(): void {
    for (const seconds of this.#waiting.subarray(0, this.#count)) this.#histogram.observe(seconds);
    this.#count = 0;
  }
}

/** Makes the metrics of one registry. */
export function instruments(registry: Registry) {
  const registers = [registry];
  const labelled = <Label extends string>(
    name: string,
    help: string,
    labelNames: Label[],
    buckets: number[],
  ) => new Histogram({ name, help, labelNames, buckets, registers });
  return {
    histogram: (name: string, help: string, buckets = LATENCY_BUCKETS) => labelled(name, help, [], buckets),
    labelled,
    tally: <Label extends string>(name: string, help: string, labelNames: Label[] = []) =>
      new Tally(name, help, labelNames, registry),
    gauge: <Label extends string>(name: string, help: string, labelNames: Label[] = []) =>
      new Gauge({ name, help, labelNames, registers }),
    /** A figure that is read at each scrape; with a label, one for each of its values. */
    read: (name: string, help: string, value: () => number | Iterable<[string, number]>, label = "") =>
      new Gauge({
        name,
        help,
        labelNames: label === "" ? [] : [label],
        registers,
        collect() {
          const now = value();
          for (const [labelValue, figure] of typeof now === "number" ? [] : now)
            this.set({ [label]: labelValue }, figure);
          if (typeof now === "number") this.set(now);
        },
      }),
    /** One counter for each value of the label. A counter that starts at 0 shows its first increase. */
    counters: <Value extends string>(name: string, help: string, label: string, values: readonly Value[]) => {
      const counter = new Counter({ name, help, labelNames: [label], registers });
      for (const value of values) counter.inc({ [label]: value }, 0);
      return (value: Value, by = 1): void => counter.inc({ [label]: value }, by);
    },
  };
}

/** Counts a response and the time that it took. */
export type ObserveResponse = (seconds: number) => void;

/** Answers "what do clients ask of this process, and how fast does it respond?". */
export class HttpMetrics {
  readonly #requests: Tally<"route" | "method" | "status">;
  readonly #duration: Histogram<"route" | "method" | "status">;
  readonly #portions: Portion[] = [];
  readonly #observers = new Map<string, ObserveResponse>();

  constructor(registry: Registry) {
    const labelNames = ["route", "method", "status"] as const;
    this.#requests = new Tally("onsale_http_requests_total", "Requests answered.", labelNames, registry);
    this.#duration = new Histogram({
      name: "onsale_http_request_duration_seconds",
      help: "Time from the head of a request to its answer, as handed to the connection.",
      labelNames,
      buckets: LATENCY_BUCKETS,
      registers: [registry],
      collect: () => {
        for (const portion of this.#portions) portion.flush();
      },
    });
  }

  /** Counts one response. `route` is the template, or "unmatched". */
  answered(route: string, method: string, status: number, seconds: number): void {
    this.observer(route, method, status)(seconds);
  }

  /** Counts responses with these labels. A route keeps the function, to save the look-up. */
  observer(route: string, method: string, status: number): ObserveResponse {
    const name = `${method} ${status} ${route}`;
    let observe = this.#observers.get(name);
    if (observe === undefined) {
      const labels = { route, method, status: String(status) };
      const requests = this.#requests.of(labels);
      const portion = new Portion(this.#duration.labels(labels));
      this.#portions.push(portion);
      observe = (seconds) => {
        requests.add();
        portion.add(seconds);
      };
      this.#observers.set(name, observe);
    }
    return observe;
  }
}
