/** What was found in a run of the torture: how each write ended, what must not have happened, and how often what did. */
import type { Connection } from "../../../shared/database/connection.ts";

export class Ledger {
  readonly problems: string[] = [];
  readonly #outcomes = new Map<string, number>();
  /** Writes by what their writer was told. */
  readonly acknowledged = new Set<number>();
  readonly refused = new Set<number>();
  readonly unknown = new Set<number>();
  #lastId = 0;

  /** No two statements have the same, so no answer can be taken for another's. */
  nextId(): number {
    return (this.#lastId += 1);
  }

  count(outcome: string, times = 1): void {
    this.#outcomes.set(outcome, (this.#outcomes.get(outcome) ?? 0) + times);
  }

  check(holds: boolean, problem: string): void {
    if (!holds) this.problems.push(problem);
  }

  /** Every write has two parts, written in one transaction: both are there or none. */
  async compareWith(admin: Connection): Promise<void> {
    const rows = await admin.run<{ id: string; parts: string }>(
      "select id, string_agg(part::text, ',' order by part) as parts from written group by id",
    );
    const written = new Map(rows.map(({ id, parts }) => [Number(id), parts]));
    for (const [id, parts] of written) {
      this.check(parts === "1,2", `write ${id} left the parts ${parts}`);
      this.check(!this.refused.has(id), `write ${id} was refused and is there`);
    }
    for (const id of this.acknowledged)
      this.check(written.has(id), `write ${id} was acknowledged and is not there`);
    this.count("write: unknown, and is there", [...this.unknown].filter((id) => written.has(id)).length);
  }

  /** Each outcome with how often it happened, by its name. */
  get tally(): Readonly<Record<string, number>> {
    return Object.fromEntries([...this.#outcomes].toSorted(([a], [b]) => a.localeCompare(b)));
  }

  /** The kinds of problems, each once: numbers are left out. */
  get kindsOfProblems(): string[] {
    return [...new Set(this.problems.map((problem) => problem.replaceAll(/\d+/g, "N").slice(0, 400)))];
  }
}
