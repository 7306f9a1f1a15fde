/** Time is passed in, so that tests can choose it. */
export interface Clock {
  /** Milliseconds since the epoch; compare with timestamps that people and databases gave. */
  now(): number;
  /** Milliseconds that never run backwards; compare with other readings of the same process only. */
  elapsed(): number;
}

export const systemClock: Clock = { now: () => Date.now(), elapsed: () => performance.now() };
