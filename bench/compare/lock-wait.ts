/** Samples how long connections of PostgreSQL wait for row locks of each other. */
import { setTimeout as sleep } from "node:timers/promises";
import { DATABASE } from "../cluster-events.ts";
import { Database, type Statement } from "../../shared/database/database.ts";

const EVERY_MS = 25;
const WAITING: Statement = {
  name: "bench-lock-waits",
  text: "select count(*)::integer as waiting from pg_stat_activity where wait_event_type = 'Lock'",
};

export interface LockWait extends AsyncDisposable {
  /** Seconds since the start, summed over all connections. */
  readonly seconds: number;
}

/** Samples the whole server 40 times a second until disposed. */
export function sampleLockWait(serverUrl: string): LockWait {
  const database = new Database({ ...DATABASE, url: `${serverUrl}postgres` });
  const stop = new AbortController();
  let seconds = 0;
  const sampling = (async () => {
    let last = performance.now();
    while (!stop.signal.aborted) {
      const [row] = await database.query<{ waiting: number }>(WAITING);
      const now = performance.now();
      seconds += ((now - last) / 1000) * (row?.waiting ?? 0);
      last = now;
      await sleep(EVERY_MS);
    }
  })();
  // Whoever disposes it hears of it; until then a rejection must not count as unhandled.
  sampling.catch(() => undefined);
  return {
    get seconds() {
      return seconds;
    },
    async [Symbol.asyncDispose]() {
      stop.abort();
      try {
        await sampling;
      } finally {
        await database.close();
      }
    },
  };
}
