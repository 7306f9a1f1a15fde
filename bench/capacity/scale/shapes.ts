/**
 * The shapes of clusters that are compared: all of them parts of one and the same cluster. Work for one shard is for events
 * that lie on one shard, and for one router it is sent to one. So the same processes are compared with themselves: those of
 * another cluster would be more or less warm, and that counts for more than the number of shards.
 */
import { invariant } from "../../../shared/domain/invariant.ts";
import type { BenchCluster } from "../../cluster.ts";
import { eventsOn, type Ground } from "../calibration/loads.ts";

export interface Shape {
  readonly name: string;
  readonly shards: number;
  readonly routers: number;
}

export const ONE_SHARD: Shape = { name: "1 shard, 1 router", shards: 1, routers: 1 };
export const TWO_SHARDS: Shape = { name: "2 shards, 1 router", shards: 2, routers: 1 };
export const FOUR_SHARDS: Shape = { name: "4 shards, 1 router", shards: 4, routers: 1 };
export const TWO_ROUTERS: Shape = { name: "2 shards, 2 routers", shards: 2, routers: 2 };
export const SHAPES: readonly Shape[] = [ONE_SHARD, TWO_SHARDS, FOUR_SHARDS, TWO_ROUTERS];
/** What the cluster must have for all of them. */
export const LARGEST = { shards: 4, routers: 2 };

const EVENTS = 10_000;

/** As many events for each shape, on as many of the shards as it has, in turns. */
export async function groundsOn({ shards, secret }: BenchCluster): Promise<ReadonlyMap<Shape, Ground>> {
  const most = (shard: number) =>
    Math.max(...SHAPES.map((shape) => (shard < shape.shards ? EVENTS / shape.shards : 0)));
  const events = await Promise.all(shards.map(async (shard, number) => eventsOn([shard], most(number))));
  return new Map(
    SHAPES.map((shape) => {
      const spread = Array.from({ length: EVENTS }, (_, index) => {
        const id = events[index % shape.shards]?.[Math.floor(index / shape.shards)];
        invariant(id !== undefined, "a shape has its events", { shape: shape.name, index });
        return id;
      });
      return [shape, { secret, spread, spreadBookings: 0 }];
    }),
  );
}
