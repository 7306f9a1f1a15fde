/** What the load of a log was, and how it was answered, for people. */
import { attemptsIn } from "./check.ts";
import type { Answer, Entry, Sent } from "./log.ts";

/** One request, and how it went. */
export interface Outcome {
  readonly sent: Sent;
  /** The label of its event. */
  readonly label: string;
  /** Until its answer; undefined when there was none. */
  readonly ms: number | undefined;
  /** When its answer came, or its loss was noticed. */
  readonly endedAt: number;
  /** Why it has no decision: no answer, or an answer that blames the cluster. */
  readonly failure: string | undefined;
}

/** In the order in which they were sent. */
export function outcomesIn(entries: readonly Entry[]): Outcome[] {
  const labels = new Map(
    entries.flatMap((entry) => (entry.type === "event" ? [[entry.id, entry.label]] : [])),
  );
  return attemptsIn(entries).map(({ sent, answer }) => ({
    sent,
    label: labels.get(sent.event) ?? "",
    ms: answer === undefined || answer.status === null ? undefined : answer.at - sent.at,
    endedAt: answer?.at ?? Infinity,
    failure: failureOf(answer),
  }));
}

function failureOf(answer: Answer | undefined): string | undefined {
  if (answer === undefined || answer.status === null) return answer?.code ?? "no answer";
  return answer.status >= 500 ? `${answer.status} ${answer.code ?? ""}` : undefined;
}

/** The time within which this share of the answers came, in milliseconds; 0 without answers. */
export function quantile(outcomes: readonly Outcome[], share: number): number {
  const times = outcomes.flatMap(({ ms }) => ms ?? []).toSorted((a, b) => a - b);
  return Math.round(times[Math.min(times.length - 1, Math.floor(times.length * share))] ?? 0);
}

/** How often each reason came. */
export function failuresOf(outcomes: readonly Outcome[]): Record<string, number> {
  const tally: Record<string, number> = {};
  for (const { failure } of outcomes) if (failure !== undefined) tally[failure] = (tally[failure] ?? 0) + 1;
  return tally;
}
