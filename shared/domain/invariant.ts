/**
 * A statement that can only be false when the program is wrong. A booking system that knows it is wrong must not go on
 * selling, nor say anything more: a role's process ends before anybody can catch the error (F8). Expected answers are
 * values and faults of the world are typed errors, so neither bad input nor another process can break an invariant.
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

/** From now on a broken invariant calls `how`, which ends the process. Until then, and in tools and tests, it only throws. */
export function endOnBrokenInvariant(how: (violation: InvariantViolation) => never): void {
  end = how;
}

/** Throws InvariantViolation unless `condition` holds. `statement` says positively what must be true. */
export function invariant(
  condition: boolean,
  statement: string,
  facts: Readonly<Record<string, unknown>> = {},
): asserts condition {
  if (condition) return;
  const violation = new InvariantViolation(statement, facts);
  // Here and not where it is caught: a catch on the way would answer a client first, or forget to ask.
  end?.(violation);
  throw violation;
}
