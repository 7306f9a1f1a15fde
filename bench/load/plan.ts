/** What the load generator is told, and what it answers. It runs in a process of its own (load/run.ts starts it). */
import type { Target } from "./connection.ts";

export interface LoadPlan {
  readonly target: Target;
  readonly connections: number;
  /** Answers of this time are not counted: caches and compilers warm up. */
  readonly warmUpSeconds: number;
  /** How long answers are counted. With 0 the load lasts until every request was sent once. */
  readonly seconds: number;
  readonly requests: RequestPlan;
}

/**
 * The requests, kept as parts and put together when they are sent: a million of them complete would need half a
 * gigabyte. Request number n goes to `paths[floor(n / tokens.length) % paths.length]` with token `n % tokens.length`.
 */
export interface RequestPlan {
  readonly method: "GET" | "POST";
  readonly paths: readonly string[];
  /** None: the requests carry no token. */
  readonly tokens: readonly string[];
  readonly body?: string;
  /** The number of the first request: a later load goes on where an earlier one ended. */
  readonly first: number;
}

export interface LoadReport {
  readonly seconds: number;
  /** Answers within the counted time. */
  readonly answers: number;
  /** How often each answer came: "201", or with a problem's code "409 sold_out". Broken connections count as "lost: …". */
  readonly counts: Readonly<Record<string, number>>;
  /** From sending a request to having its whole answer. */
  readonly latencyMs: {
    readonly p50: number;
    readonly p99: number;
    readonly p999: number;
    readonly max: number;
  };
  /** Every request that was sent, warm-up included. */
  readonly sent: number;
  /** What the load generator itself used; near 1 it was the bottleneck. */
  readonly processorShare: number;
}

/** What the load generator's process says while it runs, and at the end. */
export type LoadMessage =
  | { readonly kind: "progress"; readonly seconds: number; readonly answers: number }
  | { readonly kind: "report"; readonly report: LoadReport };
