/** Waiting for a condition, with a deadline that says what did not happen; no test sleeps a fixed time. */
import { setTimeout as sleep } from "node:timers/promises";

/** Asks again and again until `condition` gives something truthy, and returns that. Throws after `withinMs`. */
export async function eventually<T>(
  what: string,
  condition: () => Promise<T> | T,
  withinMs = 15_000,
): Promise<Exclude<T, false | undefined | null>> {
  const deadline = performance.now() + withinMs;
  for (;;) {
    const value = await condition();
    if (value !== false && value !== undefined && value !== null)
      return value as Exclude<T, false | undefined | null>;
    if (performance.now() > deadline) throw new Error(`within ${withinMs} ms it did not happen that ${what}`);
    await sleep(5);
  }
}
