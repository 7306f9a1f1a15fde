/** Costs out of measurements: least squares without negative costs. */
import { invariant } from "../../shared/domain/invariant.ts";

/** One measurement: how often each thing was done, and what all of it cost. */
export interface Observation {
  readonly counts: readonly number[];
  readonly cost: number;
}

/**
 * What each thing costs, none of it less than nothing, so that the relative errors of the observations are smallest in
 * their squares. With at most a handful of unknowns every choice of those that are zero is tried.
 */
export function nonNegativeCosts(observations: readonly Observation[]): number[] {
  const unknowns = observations[0]?.counts.length ?? 0;
  // Relative errors: otherwise a long measurement would count more than a short one.
  const rows = observations
    .filter(({ cost }) => cost > 0)
    .map(({ counts, cost }) => counts.map((count) => count / cost));
  let best = Array.from({ length: unknowns }, () => 0);
  let smallest = errorOf(rows, best);
  for (let choice = 1; choice < 2 ** unknowns; choice += 1) {
    const used = best.map((_, unknown) => unknown).filter((unknown) => (choice >> unknown) & 1);
    const solved = leastSquares(rows.map((row) => used.map((unknown) => row[unknown] ?? 0)));
    if (solved?.every((value) => value >= 0) !== true) continue;
    const candidate = Array.from({ length: unknowns }, () => 0);
    used.forEach((unknown, index) => (candidate[unknown] = solved[index] ?? 0));
    const error = errorOf(rows, candidate);
    if (error < smallest) [best, smallest] = [candidate, error];
  }
  return best;
}

/** A line through points: `y = fixed + slope × x`, neither of them negative. */
export function nonNegativeLine(points: readonly { x: number; y: number }[]): {
  fixed: number;
  slope: number;
} {
  const [fixed = 0, slope = 0] = nonNegativeCosts(points.map(({ x, y }) => ({ counts: [1, x], cost: y })));
  return { fixed, slope };
}

/** The x with the smallest |A x − 1|², by the normal equations; undefined when A does not determine it. */
function leastSquares(rows: readonly (readonly number[])[]): number[] | undefined {
  const size = rows[0]?.length ?? 0;
  const sum = (term: (row: readonly number[]) => number) => rows.reduce((total, row) => total + term(row), 0);
  const matrix = Array.from({ length: size }, (_, i) => [
    ...Array.from({ length: size }, (_, j) => sum((row) => (row[i] ?? 0) * (row[j] ?? 0))),
    sum((row) => row[i] ?? 0),
  ]);
  for (let pivot = 0; pivot < size; pivot += 1) {
    const scale = Math.max(...matrix.map((row) => Math.abs(row[pivot] ?? 0)));
    const chosen = matrix
      .slice(pivot)
      .reduce((most, row) => (Math.abs(row[pivot] ?? 0) > Math.abs(most[pivot] ?? 0) ? row : most));
    const at = matrix.indexOf(chosen);
    const head = chosen[pivot] ?? 0;
    if (Math.abs(head) <= scale * 1e-12) return undefined;
    [matrix[at], matrix[pivot]] = [matrix[pivot] ?? [], chosen];
    for (const row of matrix) {
      if (row === chosen) continue;
      const factor = (row[pivot] ?? 0) / head;
      for (let column = pivot; column <= size; column += 1)
        row[column] = (row[column] ?? 0) - factor * (chosen[column] ?? 0);
    }
  }
  return matrix.map((row, index) => {
    const diagonal = row[index];
    invariant(diagonal !== undefined && diagonal !== 0, "every unknown has its equation", { index });
    return (row[size] ?? 0) / diagonal;
  });
}

function errorOf(rows: readonly (readonly number[])[], costs: readonly number[]): number {
  return rows.reduce((total, row) => {
    const predicted = row.reduce((sum, count, index) => sum + count * (costs[index] ?? 0), 0);
    return total + (predicted - 1) ** 2;
  }, 0);
}
