import { vi } from "vitest";

/** Waits until `condition` gives something truthy and returns that. Names what did not happen in time. */
export async function eventually<T>(message: string, condition: () => Promise<T> | T, timeout = 15_000) {
  return vi.waitUntil(condition, { message, timeout, interval: 5 });
}
