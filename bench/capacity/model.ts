/**
 * How many routers, nodes and shards a load takes, by arithmetic: the processor time that every request costs each
 * process, divided by what one process may use. docs/capacity.md explains every formula. Rates are per second.
 */
import { invariant } from "../../shared/domain/invariant.ts";
import type { Costs } from "./costs.ts";
import { type Demand, missesOf, publishedOf, shardReadsOf } from "./demand.ts";
import { type Catalogue, placeLoad } from "./popularity.ts";
import { LIMITS } from "./product.ts";
import {
  callSize,
  type LanePlan,
  loadOf,
  planLane,
  planShard,
  rateOf,
  type ShardPlan,
} from "./shard-plan.ts";

const MICROSECONDS = 1e6;
const SHARDS_MAX = 256;
const ROUTERS_MAX = 100_000;
/** How much better than any smaller number of shards one must be, when none carries the load as is wanted. */
const WORTH_IT = 0.1;

export interface Terms {
  readonly demand: Demand;
  readonly costs: Costs;
  readonly catalogue: Catalogue;
  /** How busy the busiest process of a kind may be, from 0 to 1. */
  readonly utilisation: number;
  /** So many shards instead of as few as will do. */
  readonly shards?: number | undefined;
  /** Between two machines, one way, milliseconds. */
  readonly networkMs: number;
}

export interface Plan {
  /** How many there are, the mega event included. */
  readonly events: number;
  readonly shards: readonly ShardPlan[];
  /** The number of the shard with the mega event, and how busy it may be. */
  readonly mega: number;
  readonly megaMax: number;
  /** How busy the busiest shard is, the mega event left out. */
  readonly ordinary: number;
  /** Every shard keeps to its bound. */
  readonly carried: boolean;
  /** Infinity when what every router has to hear is more than one can. */
  readonly routers: number;
  /** Of each, from 0 to 1. */
  readonly routerUtilisation: number;
  /** Reads that memory cannot answer, and those of them that come to a shard. */
  readonly misses: number;
  readonly shardReads: number;
  /** Changed events that Redis tells of, and the calls that carry them. */
  readonly published: { readonly events: number; readonly calls: number };
  /** Cores that Redis keeps busy; it has one thread. */
  readonly redis: number;
}

/** As few shards as carry the load, and the routers in front of them; the best there is when no number does. */
export function planOf(terms: Terms): Plan {
  if (terms.shards !== undefined) return planWith(terms, terms.shards);
  let best: Plan | undefined;
  for (let shards = 1; shards <= SHARDS_MAX; shards += 1) {
    const plan = planWith(terms, shards);
    if (plan.carried) return plan;
    if (best === undefined || strainOf(plan) < strainOf(best) * (1 - WORTH_IT)) best = plan;
  }
  invariant(best !== undefined, "there is always a best plan", {});
  return best;
}

/** The numbers of its shards, the busiest first. */
export function busiestOf({ shards }: Plan): number[] {
  return shards
    .map((_, shard) => shard)
    .toSorted((a, b) => (shards[b]?.utilisation ?? 0) - (shards[a]?.utilisation ?? 0));
}

const strainOf = ({ ordinary, shards, mega }: Plan) => Math.max(ordinary, shards[mega]?.utilisation ?? 0);

function planWith(terms: Terms, count: number): Plan {
  const { demand, costs, catalogue, utilisation } = terms;
  const placed = placeLoad(catalogue, demand, { shards: count, lanes: LIMITS.lanes });
  const lanes = placed.map((shard) => shard.map((load) => planLane(load, costs)));
  const published = publishedOf(demand, catalogue, count);
  const heard = (costs.router.idleSecond + costs.router.heard * published.events) / MICROSECONDS;
  const { routers, misses, work } = routersFor(terms, lanes, utilisation - heard);
  const shardReads = shardReadsOf(demand, catalogue, misses);
  const planned = (each: readonly LanePlan[]) =>
    planShard(costs, each, {
      call: callSize(each, routers, terms.networkMs),
      eventReads: shardReads / count,
    });
  const shards = lanes.map(planned);

  const mega = placed.findIndex((shard) => shard.some(({ hot }) => hot > 0));
  // No shard that is added takes anything of one event's load: its shard may be busier, half way to all that it can.
  const megaMax = (1 + utilisation) / 2;
  const withoutMega = (lanes[mega] ?? []).map(({ load }) => planLane({ hot: 0, spread: load.spread }, costs));
  const ordinary = Math.max(
    ...shards.map((shard, number) => (number === mega ? planned(withoutMega) : shard).utilisation),
  );
  return {
    events: catalogue.slots.length,
    shards,
    mega,
    megaMax,
    ordinary,
    carried: ordinary <= utilisation && (shards[mega]?.utilisation ?? 0) <= megaMax,
    routers,
    routerUtilisation: work / routers + heard,
    misses,
    shardReads,
    published,
    redis:
      (costs.redis.idleSecond +
        costs.redis.published * published.events +
        costs.redis.miss * misses +
        costs.redis.eventRead * shardReads) /
      MICROSECONDS,
  };
}

/**
 * As many as have room for what is asked of them; `room` is what a router may use for that. More routers have more
 * memories that must each be filled, and smaller calls, so their number is searched for.
 */
function routersFor(
  terms: Terms,
  lanes: readonly (readonly LanePlan[])[],
  room: number,
): { routers: number; misses: number; work: number } {
  const { demand, catalogue } = terms;
  if (room <= 0) return { routers: Infinity, misses: 0, work: 0 };
  let routers = 1;
  for (;;) {
    const misses = missesOf(demand, catalogue, routers);
    const work = requestWork(terms, lanes, misses, routers);
    const needed = Math.ceil(work / room);
    if (needed <= routers || routers >= ROUTERS_MAX) return { routers, misses, work };
    routers = needed;
  }
}

/** Cores that all routers together keep busy with what is asked of them. */
function requestWork(
  { demand, catalogue, costs: { router }, networkMs }: Terms,
  lanes: readonly (readonly LanePlan[])[],
  misses: number,
  routers: number,
): number {
  const calls = lanes.reduce(
    (sum, shard) => sum + rateOf(loadOf(shard)) / callSize(shard, routers, networkMs),
    0,
  );
  return (
    ((demand.reads - misses) * router.read +
      misses * router.miss +
      shardReadsOf(demand, catalogue, misses) * router.eventRead +
      demand.refusals * router.refusal +
      demand.hot * router.booking.hot +
      demand.spread * router.booking.spread +
      calls * router.call) /
    MICROSECONDS
  );
}
