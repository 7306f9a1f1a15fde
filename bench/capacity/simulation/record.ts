/** What a simulated cluster answered: by phase, by shard and over time. */
import { invariant } from "../../../shared/domain/invariant.ts";
import type { Command, Outcome } from "./command.ts";
import { Answers, type AnswersSummary, Latencies } from "./statistics.ts";

export const PHASES = ["before", "lost", "after"] as const;
export type Phase = (typeof PHASES)[number];

export interface Moment {
  readonly second: number;
  /** p99 of the shard that is lost, and of all others, in milliseconds; undefined when nothing was decided. */
  readonly lostP99: number | undefined;
  readonly othersP99: number | undefined;
  /** 503 a second. */
  readonly unavailable: number;
}

export interface RecordOptions {
  readonly shards: number;
  /** Nothing of this time is counted. */
  readonly warmUpMs: number;
  /** How long each phase lasts. */
  readonly phaseMs: number;
  /** The shard that is lost in the second phase, if any. */
  readonly lost?: number | undefined;
}

const MOMENT_MS = 100;
/** One in so many reads is recorded. */
const READS_RECORDED = 8;

export class ClusterRecord {
  submitted = 0;
  readonly reads = new Latencies();
  readonly #options: RecordOptions;
  readonly #all = new Latencies();
  readonly #ended: Record<Outcome, number> = { decided: 0, unavailable: 0, overloaded: 0 };
  readonly #phases = phases(() => new Answers());
  readonly #shards: Record<Phase, Answers>[];
  readonly #moments: { lost: Latencies; others: Latencies; unavailable: number }[];
  #seen = 0;

  constructor(options: RecordOptions) {
    this.#options = options;
    this.#shards = Array.from({ length: options.shards }, () => phases(() => new Answers()));
    this.#moments = Array.from({ length: Math.ceil((PHASES.length * options.phaseMs) / MOMENT_MS) }, () => ({
      lost: new Latencies(),
      others: new Latencies(),
      unavailable: 0,
    }));
  }

  read(milliseconds: number, at: number): void {
    this.#seen += 1;
    if (at >= this.#options.warmUpMs && this.#seen % READS_RECORDED === 0) this.reads.record(milliseconds);
  }

  booking(command: Command, outcome: Outcome, at: number): void {
    invariant(command.end === undefined, "a command ends once", { ...command });
    command.end = outcome;
    this.#ended[outcome] += 1;
    const since = command.arrivedAt - this.#options.warmUpMs;
    const phase = PHASES[Math.floor(since / this.#options.phaseMs)];
    if (since < 0 || phase === undefined) return;
    const tookMs = at - command.arrivedAt;
    this.#phases[phase].add(outcome, tookMs);
    this.#shards[command.shard]?.[phase].add(outcome, tookMs);
    const moment = this.#moments[Math.floor(since / MOMENT_MS)];
    if (outcome === "unavailable" && moment !== undefined) moment.unavailable += 1;
    if (outcome !== "decided") return;
    this.#all.record(tookMs);
    (command.shard === this.#options.lost ? moment?.lost : moment?.others)?.record(tookMs);
  }

  phasesOf(shard: number): Record<Phase, AnswersSummary> {
    const answers = this.#shards[shard] ?? phases(() => new Answers());
    return phases((phase) => answers[phase].summary);
  }

  result() {
    const p99 = (latencies: Latencies) => (latencies.count === 0 ? undefined : latencies.percentiles.p99);
    return {
      submitted: this.submitted,
      ended: this.#ended,
      overall: { ...this.#all.percentiles, meanMs: this.#all.meanMs },
      phases: phases((phase) => this.#phases[phase].summary),
      moments: this.#moments.map(({ lost, others, unavailable }, number) => ({
        second: (number * MOMENT_MS) / 1000,
        lostP99: p99(lost),
        othersP99: p99(others),
        unavailable: (unavailable * 1000) / MOMENT_MS,
      })),
    };
  }
}

function phases<T>(each: (phase: Phase) => T): Record<Phase, T> {
  return { before: each("before"), lost: each("lost"), after: each("after") };
}
