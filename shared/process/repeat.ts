/** Background work that runs again and again, until it is stopped. */
import { setTimeout as sleep } from "node:timers/promises";

export interface Repeated {
  /** Resolves when no run is under way any more. */
  stop(): Promise<void>;
}

/** Runs `task`, waits `pauseMs`, and so on. After a failed run it calls `failed`, waits `retryMs`, and goes on. */
export function repeat(
  task: () => Promise<void>,
  pauseMs: number,
  failed: (error: unknown) => void,
  retryMs = pauseMs,
): Repeated {
  const stopping = new AbortController();
  const work = async (): Promise<void> => {
    while (!stopping.signal.aborted) {
      let nextMs = pauseMs;
      try {
        await task();
      } catch (error) {
        failed(error);
        nextMs = retryMs;
      }
      await sleep(nextMs, undefined, { signal: stopping.signal }).catch(() => undefined);
    }
  };
  const ended = work();
  return {
    async stop() {
      stopping.abort();
      await ended;
    },
  };
}
