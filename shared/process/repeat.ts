import { setTimeout as sleep } from "node:timers/promises";

/** A background task that runs again and again, one run at a time, until it is stopped. */
export interface Repeated {
  /** Resolves when the run under way, if any, has ended. */
  stop(): Promise<void>;
}

/** Runs `task`, waits `pauseMs`, and so on. A failing run is reported to `failed`, and the next one comes all the same. */
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
