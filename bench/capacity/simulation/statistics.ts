/** What a simulation remembers of millions of answers: counts and histograms, of a size that does not grow. */
import { createHistogram, type RecordableHistogram } from "node:perf_hooks";
import type { Outcome } from "./command.ts";

const LATENCY_MAX_MICROSECONDS = 120_000_000;
/** Percentiles are right to 1 %. */
const FIGURES = 2;

export interface Percentiles {
  readonly p50: number;
  readonly p99: number;
}

export class Latencies {
  readonly #histogram: RecordableHistogram = createHistogram({
    lowest: 1,
    highest: LATENCY_MAX_MICROSECONDS,
    figures: FIGURES,
  });

  record(milliseconds: number): void {
    this.#histogram.record(Math.min(LATENCY_MAX_MICROSECONDS, Math.max(1, Math.round(milliseconds * 1000))));
  }

  get count(): number {
    return this.#histogram.count;
  }

  /** Milliseconds; 0 when nothing was recorded. */
  get percentiles(): Percentiles {
    if (this.count === 0) return { p50: 0, p99: 0 };
    const at = (percent: number) => this.#histogram.percentile(percent) / 1000;
    return { p50: at(50), p99: at(99) };
  }

  get meanMs(): number {
    return this.count === 0 ? 0 : this.#histogram.mean / 1000;
  }
}

/** Answers to bookings: how many ended how, and how long the decided ones took. */
export class Answers {
  readonly latencies = new Latencies();
  readonly counts: Record<Outcome, number> = { decided: 0, unavailable: 0, overloaded: 0 };

  add(outcome: Outcome, milliseconds: number): void {
    this.counts[outcome] += 1;
    if (outcome === "decided") this.latencies.record(milliseconds);
  }

  get summary(): AnswersSummary {
    return { ...this.counts, ...this.latencies.percentiles };
  }
}

export type AnswersSummary = Readonly<Record<Outcome, number>> & Percentiles;
