/** When requests are sent: at once when a connection is free (closed model), or on schedule (open model). */
import type { Connection } from "./connection.ts";
import type { Arrivals } from "./plan.ts";
import type { Requests } from "./requests.ts";
import type { Tally } from "./tally.ts";

export interface Model {
  readonly sent: number;
  /** Nothing more will be sent. */
  readonly exhausted: boolean;
  /** Arrivals that are still waiting for a connection. */
  readonly waiting: number;
  /** Arrivals of the counted time that found no place to wait. */
  readonly dropped: number;
  /** This connection is free and may get a request at once. */
  free(connection: Connection): void;
  /** This connection broke and must not be used again. */
  broken(connection: Connection): void;
  /** No more arrivals. Those that wait are still sent. */
  stop(): void;
}

/** A slow answer delays the next request, as it does for a person. `total` requests at most. */
export function closedModel(requests: Requests, total: number): Model {
  let sent = 0;
  let stopped = false;
  return {
    get sent() {
      return sent;
    },
    get exhausted() {
      return stopped || sent >= total;
    },
    waiting: 0,
    dropped: 0,
    free(connection) {
      if (stopped || sent >= total) return;
      sent += 1;
      connection.send(requests.next(), performance.now());
    },
    broken: () => undefined,
    stop: () => void (stopped = true),
  };
}

/**
 * How often the schedule is checked while no answer arrives. A request may be sent that much late, rarely twice as much, and
 * its latency includes the delay.
 */
const TICK_MS = 1;

/** Starts at once; the first request is due at `start` (performance.now()). */
export function openModel(requests: Requests, arrivals: Arrivals, start: number, tally: Tally): Model {
  const { perSecond, waitingMax = Math.ceil(perSecond) } = arrivals;
  const idle: Connection[] = [];
  /** The due times of waiting arrivals, a ring. */
  const waiting = new Float64Array(Math.max(1, waitingMax));
  let [oldest, waitingCount] = [0, 0];
  let [sent, dropped] = [0, 0];
  let arrived = 0;

  const arrive = (due: number) => {
    // The connection that was free longest: so all are used, and no server closes one for idleness.
    const connection = idle.shift();
    if (connection !== undefined) {
      sent += 1;
      connection.send(requests.next(), due);
    } else if (waitingCount < waitingMax) {
      waiting[(oldest + waitingCount) % waiting.length] = due;
      waitingCount += 1;
    } else if (tally.counts(due)) {
      dropped += 1;
    }
  };
  const catchUp = () => {
    const until = performance.now();
    for (;;) {
      const due = start + (arrived / perSecond) * 1000;
      if (due > until) return;
      arrived += 1;
      arrive(due);
    }
  };
  let timer: NodeJS.Timeout | undefined = setInterval(catchUp, TICK_MS);
  return {
    get sent() {
      return sent;
    },
    get exhausted() {
      return timer === undefined && waitingCount === 0;
    },
    get waiting() {
      return waitingCount;
    },
    get dropped() {
      return dropped;
    },
    free(connection) {
      if (waitingCount === 0) {
        idle.push(connection);
        if (timer !== undefined) catchUp();
        return;
      }
      const due = waiting[oldest] ?? 0;
      oldest = (oldest + 1) % waiting.length;
      waitingCount -= 1;
      sent += 1;
      connection.send(requests.next(), due);
    },
    broken(connection) {
      const index = idle.indexOf(connection);
      if (index >= 0) idle.splice(index, 1);
    },
    stop() {
      catchUp();
      clearInterval(timer);
      timer = undefined;
    },
  };
}
