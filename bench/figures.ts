/** A figure of the benchmark: a value with its unit, and often a target. */

export interface Figure {
  readonly name: string;
  readonly value: number;
  readonly unit: Unit;
  readonly target?: Target;
  /** What a reader must know about the value. */
  readonly note?: string;
}

export type Unit = "/s" | "ms" | "ratio" | "×" | "MB" | "µs" | "s" | "%" | "count";

export interface Target {
  readonly wanted: string;
  readonly met: boolean;
}

export function atLeast(bound: number, value: number, unit: Unit): Target {
  return { wanted: `≥ ${written(bound, unit)}`, met: value >= bound };
}

export function atMost(bound: number, value: number, unit: Unit): Target {
  return { wanted: `≤ ${written(bound, unit)}`, met: value <= bound };
}

export function below(bound: number, value: number, unit: Unit): Target {
  return { wanted: `< ${written(bound, unit)}`, met: value < bound };
}

/** A value as people read it. */
export function written(value: number, unit: Unit): string {
  switch (unit) {
    case "/s":
      return `${Math.round(value).toLocaleString("en")} /s`;
    case "count":
      return Math.round(value).toLocaleString("en");
    case "ratio":
      return value.toFixed(2);
    case "×":
      return `${value < 10 ? value.toFixed(2) : value.toFixed(1)} ×`;
    case "s":
      return `${significant(value)} s`;
    case "ms":
    case "MB":
    case "µs":
    case "%":
      return `${value < 100 ? value.toFixed(1) : Math.round(value).toLocaleString("en")} ${unit}`;
  }
}

/** Two digits that say something, at most three decimals. */
function significant(value: number): string {
  if (value >= 10) return Math.round(value).toLocaleString("en");
  return value >= 1 ? value.toFixed(1) : value.toFixed(3);
}

/** The middle one: a neighbour's burst on a shared machine spoils a mean, but not this. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  const upper = sorted[Math.floor(middle)] ?? Number.NaN;
  return Number.isInteger(middle) ? ((sorted[middle - 1] ?? Number.NaN) + upper) / 2 : upper;
}
