/** Background work that runs again and again. */
import { setTimeout as sleep } from "node:timers/promises";

export interface Repeated {
  /** Resolves when no run is under way any more. */
  stop(): Promise<void>;
}

/** Runs `task`, pauses, and so on, one run at a time. A run that fails calls `failed` and does not stop the next. */
export function repeat(
  task: () => Promise<void>,
  pauseMs: number,
  failed: (error: unknown) => void,
): Repeated {
  const stopping = new AbortController();
  const work = async (): Promise<void> => {
    while (!stopping.signal.aborted) {
      try {
        await task();
      } catch (error) {
        failed(error);
      }
      await sleep(pauseMs, undefined, { signal: stopping.signal }).catch(() => undefined);
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
