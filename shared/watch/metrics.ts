/** The metrics of a process, the only door to prom-client. Label values come from closed sets, never an event or a user. */
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from "prom-client";

export { Counter, Gauge, Histogram, type Registry };

/** A registry that already has the process, event-loop and garbage-collection metrics. */
export function createRegistry(): Registry {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  return registry;
}

/** Seconds, from a fast answer out of memory to a deadline missed. */
export const LATENCY_BUCKETS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5];

/** Items in a batch. */
export const SIZE_BUCKETS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];

/**
 * A counter for what happens with every request: each child is a plain number, told to prom-client before a scrape. Telling
 * it every time costs 0.3 µs.
 */
export class Tally<Label extends string> {
  readonly #counter: Counter<Label>;
  readonly #children = new Map<string, { readonly labels: Record<Label, string>; count: number }>();

  constructor(options: { name: string; help: string; labelNames?: readonly Label[]; registry: Registry }) {
    const { name, help, labelNames = [], registry } = options;
    this.#counter = new Counter({
      name,
      help,
      labelNames,
      registers: [registry],
      collect: () => {
        for (const child of this.#children.values()) {
          this.#counter.inc(child.labels, child.count);
          child.count = 0;
        }
      },
    });
  }

  /** The child with these labels, which is scraped as 0 until it counts. */
  of(labels: Record<Label, string>): { add(): void } {
    const name = Object.values(labels).join(" ");
    let child = this.#children.get(name);
    if (child === undefined) this.#children.set(name, (child = { labels, count: 0 }));
    const counted = child;
    return { add: () => void (counted.count += 1) };
  }
}

/** Values that wait to be told to a histogram: one by one, among all else that a request does, each costs four times as much. */
const PORTION = 256;

/** A histogram for what happens with every request. */
class Durations<Label extends string> {
  readonly #histogram: Histogram<Label>;
  readonly #flushes: (() => void)[] = [];

  constructor(options: { name: string; help: string; labelNames: readonly Label[]; registry: Registry }) {
    const { name, help, labelNames, registry } = options;
    this.#histogram = new Histogram({
      name,
      help,
      labelNames,
      buckets: LATENCY_BUCKETS,
      registers: [registry],
      collect: () => {
        for (const flush of this.#flushes) flush();
      },
    });
  }

  of(labels: Record<Label, string>): { observe(seconds: number): void } {
    const child = this.#histogram.labels(labels);
    const waiting = new Float64Array(PORTION);
    let count = 0;
    const flush = (): void => {
      for (const seconds of waiting.subarray(0, count)) child.observe(seconds);
      count = 0;
    };
    this.#flushes.push(flush);
    return {
      observe(seconds) {
        waiting[count] = seconds;
        count += 1;
        if (count === PORTION) flush();
      },
    };
  }
}

/** Tells of one kind of answer. */
export type AnswerObserver = (seconds: number) => void;

/** Answers "what is asked of this process, and how fast does it answer?". */
export class HttpMetrics {
  readonly #requests: Tally<"route" | "method" | "status">;
  readonly #duration: Durations<"route" | "method" | "status">;
  readonly #observers = new Map<string, AnswerObserver>();

  constructor(registry: Registry) {
    const labelNames = ["route", "method", "status"] as const;
    this.#requests = new Tally({
      name: "onsale_http_requests_total",
      help: "Requests answered.",
      labelNames,
      registry,
    });
    this.#duration = new Durations({
      name: "onsale_http_request_duration_seconds",
      help: "Time from the head of a request to its answer, as handed to the connection.",
      labelNames,
      registry,
    });
  }

  /** Counts one answer. `route` is the template, or "unmatched". */
  answered(route: string, method: string, status: number, seconds: number): void {
    this.observer(route, method, status)(seconds);
  }

  /** The same for one kind of answer, for a route that keeps it. */
  observer(route: string, method: string, status: number): AnswerObserver {
    const name = `${method} ${status} ${route}`;
    let observer = this.#observers.get(name);
    if (observer === undefined) {
      const labels = { route, method, status: String(status) };
      const [requests, duration] = [this.#requests.of(labels), this.#duration.of(labels)];
      observer = (seconds) => {
        requests.add();
        duration.observe(seconds);
      };
      this.#observers.set(name, observer);
    }
    return observer;
  }
}
