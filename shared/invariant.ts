/**
 * A statement that can only be false when the program is wrong. Breaking one ends the process: a booking system that
 * knows it is wrong must not go on selling. Expected answers are values and faults of the world are typed errors.
 */
export class InvariantViolation extends Error {
  override readonly name = "InvariantViolation";
  readonly facts: Readonly<Record<string, unknown>>;

  constructor(statement: string, facts: Readonly<Record<string, unknown>>) {
    super(`invariant broken: ${statement} ${JSON.stringify(facts)}`);
    this.facts = facts;
  }
}

/** Throws InvariantViolation unless `condition` holds. `statement` says positively what must be true. */
export function invariant(
  condition: boolean,
  statement: string,
  facts: Readonly<Record<string, unknown>> = {},
): asserts condition {
  if (!condition) throw new InvariantViolation(statement, facts);
}

/** Ends the process when `error` is a broken invariant, wherever it was caught. */
export function endOnBug(error: unknown): void {
  if (error instanceof InvariantViolation)
    queueMicrotask(() => {
      throw error;
    });
}
