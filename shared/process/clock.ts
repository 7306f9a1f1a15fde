/** A test passes its own clock. */
export interface Clock {
  /** Milliseconds since the epoch, to compare with timestamps of people and databases. */
  now(): number;
  /** Milliseconds that never run backwards, to compare within one process only. */
  elapsed(): number;
}

export const systemClock: Clock = { now: () => Date.now(), elapsed: () => performance.now() };
