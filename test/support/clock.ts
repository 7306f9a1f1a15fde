import type { Clock } from "../../shared/process/clock.ts";

/** A clock that stands still until a test moves it. */
export function stoppedClock(time = 1_000_000): Clock & { time: number } {
  const clock = { time, now: () => clock.time, elapsed: () => clock.time };
  return clock;
}
