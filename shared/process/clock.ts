/** Code gets its clock as an argument, so that a test can stop time. */
export interface Clock {
  /** Milliseconds since the epoch, to compare with timestamps of people and databases. */
  now(): number;
  /** Milliseconds that never run backwards, to compare within one process only. */
  elapsed(): number;
}

export const systemClock: Clock = { now: () => Date.now(), elapsed: () => performance.now() };
