/** Counts what became of requests, one counter each: k6's summary shows no tags. */
import { Counter } from "k6/metrics";
import { counterOf, OUTCOMES, type Outcome } from "./outcomes.ts";

const counters: ReadonlyMap<string, Counter> = new Map(
  OUTCOMES.map((outcome) => [outcome, new Counter(counterOf(outcome))]),
);

export function count(outcome: Outcome): void {
  counters.get(outcome)?.add(1);
}

/** Counts a refusal under its code. Says whether it is one that is expected. */
export function countRefusal(code: unknown): boolean {
  const counter = typeof code === "string" ? counters.get(code) : undefined;
  counter?.add(1);
  return counter !== undefined;
}
