/** What `npm run bench -- capacity` is asked: the load that a cluster shall carry. */
import type { NumberOption } from "../part.ts";

/** More would take the simulation longer than anybody waits. */
const DECIDED_PER_SECOND_MAX = 500_000;

export const CAPACITY_OPTIONS = {
  rps: { means: "requests a second", default: 1_000_000, min: 1_000, max: 10_000_000 },
  bookings: { means: "the share of requests that are bookings", default: 0.05, min: 0, max: 1 },
  "sold-out": {
    means: "the share of bookings that routers refuse from memory",
    default: 0.5,
    min: 0,
    max: 1,
  },
  hot: { means: "the share of the other bookings that go to the mega event", default: 0.2, min: 0, max: 1 },
  shards: { means: "so many shards, 0 for as few as will do", default: 0, min: 0, max: 256, whole: true },
  utilisation: { means: "how busy the busiest process may be", default: 0.6, min: 0.1, max: 0.95 },
  reuse: {
    means: "1 to reuse the newest calibration in bench/results/ instead of measuring",
    default: 0,
    min: 0,
    max: 1,
    whole: true,
  },
  seed: { means: "the seed of the simulation", default: 1, min: 0, max: 0xffffffff, whole: true },
} as const satisfies Record<string, NumberOption>;

export type CapacityOption = keyof typeof CAPACITY_OPTIONS;

export interface Asked {
  readonly rps: number;
  readonly bookings: number;
  readonly soldOut: number;
  readonly hot: number;
  readonly shards: number | undefined;
  readonly utilisation: number;
  readonly reuse: boolean;
  readonly seed: number;
}

/** Throws when the numbers, each within its bounds, do not go together. */
export function readAsked(options: Readonly<Record<CapacityOption, number>>): Asked {
  const { rps, bookings, "sold-out": soldOut, hot, shards, utilisation, reuse, seed } = options;
  const decided = rps * bookings * (1 - soldOut);
  if (decided > DECIDED_PER_SECOND_MAX) {
    throw new Error(
      `--rps ${rps} --bookings ${bookings} --sold-out ${soldOut}: that leaves ${Math.round(decided)} bookings a second ` +
        `to the shards, and the simulation follows at most ${DECIDED_PER_SECOND_MAX}`,
    );
  }
  return {
    rps,
    bookings,
    soldOut,
    hot,
    utilisation,
    seed,
    shards: shards === 0 ? undefined : shards,
    reuse: reuse === 1,
  };
}
