/** Counts answers and measures their latency: all of the counted time together, and in slices of it. */
import { createHistogram, type RecordableHistogram } from "node:perf_hooks";
import type { Answer } from "./answer.ts";
import { type AnswerClass, type LoadReport, type Slice } from "./plan.ts";

export interface Window {
  /** As of performance.now(). */
  readonly from: number;
  readonly until: number;
}

interface OpenSlice {
  readonly classes: Record<AnswerClass, number>;
  readonly latencyMicroseconds: RecordableHistogram;
}

const LATENCY_MAX_MICROSECONDS = 120e6;
/** Short measurements are plotted with more than one point a second. */
const SLICE_SECONDS = { short: 0.25, long: 1, shortUpToSeconds: 15 };
/** Percentiles of the curve: 100 × (1 − 10^−x), from the minimum to 99.999. */
const CURVE_POINTS = Array.from({ length: 101 }, (_, index) => 100 * (1 - 10 ** (-index / 20)));

export class Tally {
  readonly #window: Window;
  readonly #due: "answered" | "since";
  readonly #sliceSeconds: number;
  readonly #counts = new Map<string, number>();
  readonly #classes = noAnswers();
  readonly #allClasses = noAnswers();
  readonly #slices: OpenSlice[] = [];
  readonly #latencyMicroseconds = latencies(3);
  readonly #classLatencyMicroseconds = {
    confirmed: latencies(2),
    accepted: latencies(2),
    refused: latencies(2),
    read: latencies(2),
    error: latencies(2),
  } satisfies Record<AnswerClass, RecordableHistogram>;
  #answers = 0;

  /** `due`: an answer counts if it arrived within the window, or if its request was due (`since`) within it. */
  constructor(window: Window, due: "answered" | "since") {
    this.#window = window;
    this.#due = due;
    const seconds = (window.until - window.from) / 1000;
    this.#sliceSeconds = seconds > SLICE_SECONDS.shortUpToSeconds ? SLICE_SECONDS.long : SLICE_SECONDS.short;
  }

  get answers(): number {
    return this.#answers;
  }

  /** Whether this moment is within the counted time. */
  counts(moment: number): boolean {
    return moment >= this.#window.from && moment < this.#window.until;
  }

  answered({ status, problem }: Answer, since: number): void {
    const now = performance.now();
    const answerClass = classOf(status);
    this.#allClasses[answerClass] += 1;
    const microseconds = Math.min(Math.max(1, Math.round((now - since) * 1000)), LATENCY_MAX_MICROSECONDS);
    if (this.counts(now)) {
      const slice = this.#sliceAt(now);
      slice.classes[answerClass] += 1;
      slice.latencyMicroseconds.record(microseconds);
    }
    if (!this.counts(this.#due === "since" ? since : now)) return;
    this.#answers += 1;
    this.#classes[answerClass] += 1;
    this.#count(problem === undefined ? String(status) : `${status} ${problem}`);
    this.#latencyMicroseconds.record(microseconds);
    this.#classLatencyMicroseconds[answerClass].record(microseconds);
  }

  /** Requests without an answer, at any time: none may be forgotten. */
  lost(reason: string, requests = 1): void {
    this.#classes.error += requests;
    this.#allClasses.error += requests;
    this.#count(`lost: ${reason}`, requests);
  }

  /** The report of everything counted so far. */
  report(): Omit<LoadReport, "seconds" | "sent" | "dropped" | "processorShare"> {
    const all = this.#latencyMicroseconds;
    const percentile = (share: number) => (this.#answers === 0 ? 0 : all.percentile(share) / 1000);
    return {
      answers: this.#answers,
      counts: Object.fromEntries([...this.#counts].sort(([, a], [, b]) => b - a)),
      classes: this.#classes,
      allClasses: this.#allClasses,
      latencyMs: {
        p50: percentile(50),
        p90: percentile(90),
        p99: percentile(99),
        p999: percentile(99.9),
        max: this.#answers === 0 ? 0 : all.max / 1000,
      },
      classP99Ms: {
        confirmed: p99Ms(this.#classLatencyMicroseconds.confirmed),
        accepted: p99Ms(this.#classLatencyMicroseconds.accepted),
        refused: p99Ms(this.#classLatencyMicroseconds.refused),
        read: p99Ms(this.#classLatencyMicroseconds.read),
        error: p99Ms(this.#classLatencyMicroseconds.error),
      },
      // Beyond the last answer the curve says nothing.
      latencyCurve: CURVE_POINTS.filter((point) => this.#answers * (1 - point / 100) >= 1).map((point) => ({
        percentile: point,
        ms: percentile(Math.max(point, 1e-3)),
      })),
      series: { sliceSeconds: this.#sliceSeconds, slices: this.#slices.map(closed) },
    };
  }

  #count(answer: string, times = 1): void {
    this.#counts.set(answer, (this.#counts.get(answer) ?? 0) + times);
  }

  #sliceAt(now: number): OpenSlice {
    const wanted = Math.floor((now - this.#window.from) / 1000 / this.#sliceSeconds);
    for (let next = this.#slices.length; next <= wanted; next += 1)
      this.#slices.push({ classes: noAnswers(), latencyMicroseconds: latencies(2) });
    // The loop above has made it.
    return this.#slices[wanted] as OpenSlice;
  }
}

function classOf(status: number): AnswerClass {
  if (status === 201) return "confirmed";
  if (status === 202) return "accepted";
  if (status === 409) return "refused";
  return status === 200 || status === 304 ? "read" : "error";
}

const noAnswers = () =>
  ({ confirmed: 0, accepted: 0, refused: 0, read: 0, error: 0 }) satisfies Record<AnswerClass, number>;

/** `figures` are those that are exact. */
const latencies = (figures: number) =>
  createHistogram({ lowest: 1, highest: LATENCY_MAX_MICROSECONDS, figures });

function closed({ classes, latencyMicroseconds }: OpenSlice): Slice {
  return { ...classes, p99Ms: p99Ms(latencyMicroseconds) };
}

const p99Ms = (microseconds: RecordableHistogram) =>
  microseconds.count === 0 ? 0 : microseconds.percentile(99) / 1000;
