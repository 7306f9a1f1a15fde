/** Rounds as people read them. */
import type { Round } from "./round.ts";

function namesOf({ faults }: Round): string {
  return faults.map(({ name }) => name).join(" + ");
}

/** While the next one runs. */
export function lineOf(round: Round): string {
  const { requests, failures, recoveredMs, othersP99, problems } = round;
  const failed = Object.entries(failures).map(([reason, times]) => `${times} × ${reason}`);
  const others = othersP99 === undefined ? "" : `, others' p99 ${othersP99[0]} → ${othersP99[1]} ms`;
  const verdict = problems.length === 0 ? "kept" : `${problems.length} PROBLEMS`;
  return `${namesOf(round)}: ${verdict}; ${requests} requests, failed: ${failed.join(", ") || "none"}; recovered in ${recoveredMs} ms${others}`;
}

/** In the form of docs/reliability.md. */
export function tableOf(rounds: readonly Round[]): string {
  const rows = rounds.map((round) => {
    const { requests, bookings, failures, recoveredMs, othersP99, problems } = round;
    const failed = Object.values(failures).reduce((sum, times) => sum + times, 0);
    const others = othersP99 === undefined ? "–" : `${othersP99[0]} → ${othersP99[1]}`;
    const verdict = problems.length === 0 ? "kept" : "broken";
    return `| ${namesOf(round)} | ${requests} | ${bookings} | ${failed} | ${recoveredMs} | ${others} | ${verdict} |`;
  });
  return [
    "| fault | requests | bookings | failed | recovered in ms | others' p99 before → during, ms | promises |",
    "| --- | --- | --- | --- | --- | --- | --- |",
    ...rows,
  ].join("\n");
}
