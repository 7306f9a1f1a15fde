/** What the load generator is told, and what it answers. The generator is a process of its own (load/run.ts). */
import type { Buyers } from "../tokens.ts";
import type { Target } from "./connection.ts";

export interface LoadPlan {
  readonly target: Target;
  readonly connections: number;
  /** Answers of this time are not counted, while caches and compilers warm up. */
  readonly warmUpSeconds: number;
  /** How long answers are counted. With 0 the load lasts until every request was sent once (closed model only). */
  readonly seconds: number;
  /** With it, the model is open. Without it, a connection sends its next request when it has its answer (closed model). */
  readonly arrivals?: Arrivals;
  readonly requests: RequestPlan | RequestMix;
}

/**
 * The open model: requests arrive on schedule, whatever became of those before, like the requests of a crowd. Latency
 * counts from the scheduled moment, so a stalled server is charged for everybody who waited.
 */
export interface Arrivals {
  readonly perSecond: number;
  /** Arrivals that may wait for a free connection; one more is dropped and counted. By default the arrivals of one second. */
  readonly waitingMax?: number;
}

/** Requests of one kind, kept as parts and put together when they are sent: complete, a million need half a gigabyte. */
export interface RequestPlan {
  readonly method: "GET" | "POST";
  readonly paths: readonly string[];
  /** Each request carries the token of one of them. Without: no token. */
  readonly buyers?: Buyers;
  readonly body?: string;
  /** "in turns" by default. */
  readonly order?: RequestOrder;
  /** The number of the first request: a later load goes on where an earlier one ended. */
  readonly first: number;
}

/**
 * Which path and which user request n gets, of P paths and U users.
 * - `in turns`: every user once on the first path, then every user on the next one: path `n / U`, user `n`.
 * - `evenly`: the paths in turns, and a user meets a path again only after U × P requests.
 * - `zipf`: path i with a probability that goes as 1 / (i + 1), users in turns.
 */
export type RequestOrder = "in turns" | "evenly" | "zipf";

/** Several kinds side by side: each request is of one of them, with a probability that goes as its share. */
export interface RequestMix {
  readonly kinds: readonly { readonly share: number; readonly requests: RequestPlan }[];
}

/** What an answer is to the benchmark: 201, 202, 409, 200 or 304, and all others. A refusal is an answer, not an error. */
export const ANSWER_CLASSES = ["confirmed", "accepted", "refused", "read", "error"] as const;
export type AnswerClass = (typeof ANSWER_CLASSES)[number];

export interface LoadReport {
  readonly seconds: number;
  /**
   * Counted answers. Closed model: those that arrived within the counted time. Open model: those to requests that were
   * due within it, whenever they arrived.
   */
  readonly answers: number;
  /** How often each answer came: "201", or with a problem's code "409 sold_out". Broken connections count as "lost: …". */
  readonly counts: Readonly<Record<string, number>>;
  /** The same by class; "lost: …" is an error. */
  readonly classes: Readonly<Record<AnswerClass, number>>;
  /** All answers by class, those outside the counted time included: what the servers worked for. */
  readonly allClasses: Readonly<Record<AnswerClass, number>>;
  /** From sending a request (open model: from when it was due) to having its whole answer. */
  readonly latencyMs: {
    readonly p50: number;
    readonly p90: number;
    readonly p99: number;
    readonly p999: number;
    readonly max: number;
  };
  /** Of the answers of each class; 0 where there are none. */
  readonly classP99Ms: Readonly<Record<AnswerClass, number>>;
  /** The whole distribution, to be drawn. */
  readonly latencyCurve: readonly { readonly percentile: number; readonly ms: number }[];
  readonly series: {
    readonly sliceSeconds: number;
    readonly slices: readonly Slice[];
  };
  /** All requests sent, warm-up included. */
  readonly sent: number;
  /** Open model: arrivals of the counted time that found no connection and no place to wait. They were never sent. */
  readonly dropped: number;
  /** The share of a core that the generator used; near 1 it was the bottleneck. */
  readonly processorShare: number;
}

/** Answers that arrived in one slice of the counted time. */
export type Slice = Readonly<Record<AnswerClass, number>> & { readonly p99Ms: number };

/** What the load generator's process says while it runs, and at the end. */
export type LoadMessage =
  | { readonly kind: "progress"; readonly seconds: number; readonly answers: number }
  | { readonly kind: "report"; readonly report: LoadReport }
  | { readonly kind: "failed"; readonly reason: string };
