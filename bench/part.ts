/** What a part of the benchmark is: something that is done to a fresh cluster and answers figures. */
import type { BenchCluster } from "./cluster.ts";
import type { Progress } from "./progress.ts";

export interface PartContext {
  readonly cluster: BenchCluster;
  /** How long each measurement of the part counts. */
  readonly seconds: number;
  readonly signal: AbortSignal;
  readonly progress: Progress;
}

export type Part = (context: PartContext) => Promise<readonly Figure[]>;

export interface Figure {
  readonly name: string;
  readonly value: number;
  readonly unit: Unit;
  readonly target?: Target;
  /** What one must know to read it. */
  readonly note?: string;
}
export type Unit = "/s" | "ms" | "ratio" | "MB" | "µs";

export interface Target {
  readonly wanted: string;
  readonly met: boolean;
}

export function atLeast(bound: number, value: number, unit: Unit): Target {
  return { wanted: `≥ ${written(bound, unit)}`, met: value >= bound };
}

export function below(bound: number, value: number, unit: Unit): Target {
  return { wanted: `< ${written(bound, unit)}`, met: value < bound };
}

/** A value as people read it. */
export function written(value: number, unit: Unit): string {
  if (unit === "/s") return `${Math.round(value).toLocaleString("en")} /s`;
  if (unit === "ratio") return value.toFixed(2);
  return `${value < 100 ? value.toFixed(1) : Math.round(value)} ${unit}`;
}

/** The middle one: a neighbour's burst on a shared machine spoils a mean, but not this. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  const upper = sorted[Math.floor(middle)] ?? Number.NaN;
  return Number.isInteger(middle) ? ((sorted[middle - 1] ?? Number.NaN) + upper) / 2 : upper;
}
