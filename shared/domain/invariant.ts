/**
 * An invariant is a statement that is false only when the program is wrong. A wrong program must not sell or answer any more,
 * so a role's process ends before any code can catch the error (F8). Refusals are values and faults of the world are typed
 * errors, so neither bad input nor another process can break an invariant.
 */
export class InvariantViolation extends Error {
  override readonly name = "InvariantViolation";
  readonly facts: Readonly<Record<string, unknown>>;

  constructor(statement: string, facts: Readonly<Record<string, unknown>>) {
    super(`invariant broken: ${statement} ${JSON.stringify(facts)}`);
    this.facts = facts;
  }
}

let end: ((violation: InvariantViolation) => never) | undefined;

/** From now on a broken invariant calls `how`, which ends the process. Before, and in tools and tests, it only throws. */
export function endOnBrokenInvariant(how: (violation: InvariantViolation) => never): void {
  end = how;
}

/** Throws InvariantViolation unless `condition` holds. `statement` says what must be true. */
export function invariant(
  condition: boolean,
  statement: string,
  facts: Readonly<Record<string, unknown>> = {},
): asserts condition {
  if (condition) return;
  const violation = new InvariantViolation(statement, facts);
  // Ends the process here: a catch block further up could answer a client first or swallow the error.
  end?.(violation);
  throw violation;
}
