/** How many processes a load takes, by arithmetic: what it has done in a second, times what each of these costs. */
import { median } from "../figures.ts";
import { type Done, eachProcess, type Load, type Process, type Spent, type Thing, THINGS } from "./load.ts";

/** Processor microseconds for each thing that is done, by kind of process. */
export type Costs = Readonly<Record<Process, Done>>;

export interface Asked {
  readonly rps: number;
  /** The share of requests that are bookings. */
  readonly bookings: number;
  /** The share of bookings that routers refuse, because the event is sold out. */
  readonly soldOut: number;
  /** The share of reads that a router's memory cannot answer. */
  readonly misses: number;
  /** Bookings that are decided together. */
  readonly batch: number;
  /** How busy a process may be, from 0 to 1. */
  readonly utilisation: number;
}

export interface Needs {
  /** Infinity when hearing of changed events fills every router. */
  readonly routers: number;
  readonly shards: number;
  /** Of all shards together. */
  readonly postgresCores: number;
  /** The share of its one thread that Redis uses. */
  readonly redis: number;
  /** Bookings a second that one shard carries, and so the most that one event can have. */
  readonly bookingsOfOneShard: number;
}

/** What the cluster has to do in a second. */
function demandOf({ rps, bookings, soldOut, misses, batch }: Asked): Done {
  const reads = rps * (1 - bookings);
  const booked = rps * bookings * (1 - soldOut);
  return {
    reads,
    misses: reads * misses,
    refusals: rps * bookings * soldOut,
    bookings: booked,
    batches: booked / batch,
  };
}

/** The processor time that this costs one router and all that stands behind it. */
export function predict(costs: Costs, done: Done): Spent {
  return eachProcess((process) =>
    THINGS.reduce((sum, thing) => sum + done[thing] * costs[process][thing], 0),
  );
}

export function needsOf(costs: Costs, asked: Asked): Needs {
  const { utilisation, batch } = asked;
  const spent = predict(costs, demandOf(asked));
  const cores = eachProcess((process) => spent[process] / 1e6);
  // Every router hears of every change: that part of its time does not shrink with more routers.
  const room = utilisation - cores.hearing;
  const node = costs.node;
  return {
    routers: room <= 0 ? Infinity : Math.max(1, Math.ceil((cores.router - cores.hearing) / room)),
    shards: Math.max(1, Math.ceil(cores.node / utilisation)),
    postgresCores: cores.postgres / utilisation,
    redis: cores.redis,
    bookingsOfOneShard: (utilisation * 1e6) / (node.bookings + node.batches / batch),
  };
}

/** The loads that the costs are taken from. */
export interface CostLoads {
  /** With hardly any misses, and with many. */
  readonly reads: readonly [Load, Load];
  readonly refusals: Load;
  /** In large batches, and in small ones. */
  readonly bookings: readonly [Load, Load];
}

export function costsOf({ reads, refusals, bookings }: CostLoads): Costs {
  return eachProcess((process) => {
    const [read, miss] = twoCosts(process, reads, "reads", "misses");
    const [booking, batch] = twoCosts(process, bookings, "bookings", "batches");
    const refusal = refusals.spent[process] / refusals.done.refusals;
    return { reads: read, misses: miss, refusals: refusal, bookings: booking, batches: batch };
  });
}

/** Two loads that have differently many of a part, such as batches of bookings, tell apart what each costs. */
function twoCosts(
  process: Process,
  [few, many]: readonly [Load, Load],
  whole: Thing,
  part: Thing,
): [number, number] {
  const [low, high] = [few, many].map(({ done, spent }) => ({
    parts: done[part] / done[whole],
    cost: spent[process] / done[whole],
  })) as [{ parts: number; cost: number }, { parts: number; cost: number }];
  // Noise can make a cost seem negative, but there is none below nothing.
  const ofPart = Math.max(0, (high.cost - low.cost) / (high.parts - low.parts));
  const ofWhole = (low.cost + high.cost) / 2 - (ofPart * (low.parts + high.parts)) / 2;
  return [Math.max(0, ofWhole), ofPart];
}

/** The median of each cost. */
export function medianCosts(rounds: readonly Costs[]): Costs {
  return eachProcess(
    (process) =>
      Object.fromEntries(
        THINGS.map((thing) => [thing, median(rounds.map((costs) => costs[process][thing]))]),
      ) as Done,
  );
}
