/** What a shard has to do under its part of the load: its lanes, its node, its database. Rates are per second. */
import type { Costs } from "./costs.ts";
import type { Load } from "./popularity.ts";
import { LIMITS } from "./product.ts";

const MICROSECONDS = 1e6;

export interface LanePlan {
  readonly load: Load;
  /** Bookings in a batch. */
  readonly batch: number;
  /** How long a batch takes, the flush and the node's own work on it included, milliseconds. */
  readonly cycleMs: number;
  /** The load as a share of what full batches would take. */
  readonly utilisation: number;
}

export interface ShardPlan {
  readonly load: Load;
  readonly lanes: readonly LanePlan[];
  /** Commands in a call. */
  readonly call: number;
  /** Cores that are busy. */
  readonly node: number;
  readonly postgres: number;
  /** The busier of the node and its lanes, from 0 to 1 when it can be carried. */
  readonly utilisation: number;
}

/** A lane takes all that waits as its next batch: the longer batches take, the larger they are. */
export function planLane(load: Load, { batchTime: time, node }: Costs): LanePlan {
  const rate = rateOf(load) / 1000;
  if (rate === 0) return { load, batch: 0, cycleMs: 0, utilisation: 0 };
  const fixed = (load.spread > 0 ? time.spread.fixed : time.hot.fixed) + time.flush + node.batch / 1000;
  const booking = (load.hot * time.hot.booking + load.spread * time.spread.booking) / rateOf(load);
  const growing = rate * booking < 1 ? (rate * fixed) / (1 - rate * booking) : Infinity;
  const batch = Math.min(LIMITS.batchMax, Math.max(1, growing));
  const capacity = LIMITS.batchMax / (fixed + booking * LIMITS.batchMax);
  return { load, batch, cycleMs: fixed + booking * batch, utilisation: rate / capacity };
}

/** Commands in a call: they gather only while all calls that a router may have under way are. */
export function callSize(lanes: readonly LanePlan[], routers: number, networkMs: number): number {
  const rate = rateOf(loadOf(lanes)) / 1000 / routers;
  // A call waits for the batch under way, half of it on average, then for its own.
  const callMs = 2 * networkMs + 1.5 * Math.max(...lanes.map(({ cycleMs }) => cycleMs));
  return Math.min(LIMITS.callMax, Math.max(1, (rate * callMs) / LIMITS.inFlightMax));
}

/** What `lanes` make of a shard whose calls carry `call` commands, and that is asked for so many events a second. */
export function planShard(
  { node, postgres }: Costs,
  lanes: readonly LanePlan[],
  { call, eventReads }: { readonly call: number; readonly eventReads: number },
): ShardPlan {
  const load = loadOf(lanes);
  const batches = (kind: keyof Load) =>
    lanes.reduce((sum, lane) => sum + (lane.batch === 0 ? 0 : lane.load[kind] / lane.batch), 0);
  const nodeCores =
    (node.idleSecond +
      load.hot * node.booking.hot +
      load.spread * node.booking.spread +
      (rateOf(load) / call) * node.call +
      (batches("hot") + batches("spread")) * node.batch +
      eventReads * node.eventRead) /
    MICROSECONDS;
  const postgresCores =
    (postgres.idleSecond +
      load.hot * postgres.booking.hot +
      load.spread * postgres.booking.spread +
      batches("hot") * postgres.batch.hot +
      batches("spread") * postgres.batch.spread +
      eventReads * postgres.eventRead) /
    MICROSECONDS;
  return {
    load,
    lanes,
    call,
    node: nodeCores,
    postgres: postgresCores,
    utilisation: Math.max(nodeCores, ...lanes.map(({ utilisation }) => utilisation)),
  };
}

export function loadOf(lanes: readonly LanePlan[]): Load {
  return {
    hot: lanes.reduce((sum, { load }) => sum + load.hot, 0),
    spread: lanes.reduce((sum, { load }) => sum + load.spread, 0),
  };
}

export function rateOf({ hot, spread }: Load): number {
  return hot + spread;
}
