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

/** Answers "what is asked of this process, and how fast does it answer?". Children are kept: looking one up costs more. */
export class HttpMetrics {
  readonly #requests: Counter<"route" | "method" | "status">;
  readonly #duration: Histogram<"route" | "method" | "status">;
  readonly #children = new Map<string, (seconds: number) => void>();

  constructor(registry: Registry) {
    const labelNames = ["route", "method", "status"] as const;
    this.#requests = new Counter({
      name: "onsale_http_requests_total",
      help: "Requests answered.",
      labelNames,
      registers: [registry],
    });
    this.#duration = new Histogram({
      name: "onsale_http_request_duration_seconds",
      help: "Time from the first byte of a request to the end of its answer.",
      labelNames,
      buckets: LATENCY_BUCKETS,
      registers: [registry],
    });
  }

  /** Counts one answer. `route` is the template, or "unmatched". */
  answered(route: string, method: string, status: number, seconds: number): void {
    this.observer(route, method, status)(seconds);
  }

  /** The same for one fixed answer, for a path hot enough to keep it. */
  observer(route: string, method: string, status: number): (seconds: number) => void {
    const name = `${method} ${status} ${route}`;
    let observe = this.#children.get(name);
    if (observe === undefined) {
      const labels = { route, method, status: String(status) };
      const [requests, duration] = [this.#requests.labels(labels), this.#duration.labels(labels)];
      observe = (seconds) => {
        requests.inc();
        duration.observe(seconds);
      };
      this.#children.set(name, observe);
    }
    return observe;
  }
}
