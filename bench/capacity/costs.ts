/**
 * What everything costs, as measured on one machine: the only thing that the capacity model knows about the product. A
 * calibration has several rounds; whatever is computed is computed with each of them, and how far the results lie apart
 * is their error.
 */
import { z } from "zod";

const cost = z.number().nonnegative();
const byLoad = <Shape extends z.ZodType>(shape: Shape) => z.object({ hot: shape, spread: shape });

const batchTime = z.object({
  /** How long a batch takes that nothing else delays, without the flush: `fixed + bookings × booking`, milliseconds. */
  hot: z.object({ fixed: cost, booking: cost }),
  spread: z.object({ fixed: cost, booking: cost }),
  /** How long the flush of a commit takes, milliseconds. */
  flush: cost,
});
/** How long a lane is busy with a batch. */
export type BatchTime = z.infer<typeof batchTime>;

const costs = z.object({
  /** Processor time in microseconds, but where a line says otherwise. */
  router: z.object({
    /** A read that memory answers. */
    read: cost,
    /** A read that memory cannot answer; Redis does. */
    miss: cost,
    /** What is added when Redis cannot answer it either and a shard does. */
    eventRead: cost,
    /** A booking that memory refuses: sold out. */
    refusal: cost,
    /** A booking that a shard decides, and a call that carries some of them. */
    booking: byLoad(cost),
    call: cost,
    /** A changed event that Redis tells every router of. */
    heard: cost,
    /** A second without requests. */
    idleSecond: cost,
  }),
  /** `eventRead` is a read of an event that came to the shard. */
  node: z.object({ booking: byLoad(cost), call: cost, batch: cost, eventRead: cost, idleSecond: cost }),
  postgres: z.object({ booking: byLoad(cost), batch: byLoad(cost), eventRead: cost, idleSecond: cost }),
  /** `eventRead` is writing down what a shard answered. */
  redis: z.object({ published: cost, miss: cost, eventRead: cost, idleSecond: cost }),
  /** What the load generator itself uses; it shares this machine, but is no part of a cluster. */
  generator: z.object({ read: cost, refusal: cost, booking: cost }),
  batchTime,
});
/** One round of a calibration. `hot` is a booking of one event, `spread` one of ten thousand. */
export type Costs = z.infer<typeof costs>;

const traffic = z.object({
  /** Bytes over a client's connection, headers included, without those of TCP and IP. */
  read: z.object({ request: cost, answer: cost }),
  refusal: z.object({ request: cost, answer: cost }),
  booking: z.object({ request: cost, answer: cost }),
  /** Bytes between router, node and PostgreSQL, both ways, for a booking. */
  inside: byLoad(cost),
  /** Bytes in and out of Redis for a changed event; out is once for each router. */
  published: z.object({ in: cost, out: cost }),
  /** Redis commands for a changed event, the calls of its script included. */
  publishedCommands: cost,
  /** Bytes that Redis keeps for an event. */
  kept: cost,
  /** Bytes of write-ahead log, and of growth of the tables and indexes, for a booking. */
  log: byLoad(cost),
  growth: cost,
});
export type Traffic = z.infer<typeof traffic>;

export const calibrationSchema = z.object({
  date: z.string(),
  processor: z.string(),
  rounds: z.array(costs).min(1),
  /** Measured times of batches as shares of the fitted ones, sorted: what the time of a simulated batch varies by. */
  batchTimeShares: z.array(cost).min(1),
  traffic,
});
export type Calibration = z.infer<typeof calibrationSchema>;

/** A computed value: with the median costs, and the smallest and largest of the rounds. */
export interface Estimate {
  readonly value: number;
  readonly low: number;
  readonly high: number;
}

/** Computes something with each round of a calibration, and with the median of all. */
export function estimate(rounds: readonly Costs[], compute: (costs: Costs) => number): Estimate {
  const all = [...rounds, middleOf(rounds)].map(compute);
  return { value: all.at(-1) ?? Number.NaN, low: Math.min(...all), high: Math.max(...all) };
}

/** The costs whose every number is the median of the rounds'. */
export function middleOf(rounds: readonly Costs[]): Costs {
  return costs.parse(middle(rounds));
}

/** The same for traffic. */
export function trafficMiddle(rounds: readonly Traffic[]): Traffic {
  return traffic.parse(middle(rounds));
}

function middle(values: readonly unknown[]): unknown {
  const [first] = values;
  if (typeof first === "number") {
    const sorted = (values as readonly number[]).toSorted((a, b) => a - b);
    const half = (sorted.length - 1) / 2;
    return ((sorted[Math.floor(half)] ?? 0) + (sorted[Math.ceil(half)] ?? 0)) / 2;
  }
  const objects = values as readonly Record<string, unknown>[];
  return Object.fromEntries(
    Object.keys(first as object).map((key) => [key, middle(objects.map((object) => object[key]))]),
  );
}
