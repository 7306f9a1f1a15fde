/** Every strategy under its name. */
import type { BaselineName, StrategyModule } from "../strategy.ts";
import { atomicUpdate } from "./atomic-update.ts";
import { forUpdate } from "./for-update.ts";
import { optimistic } from "./optimistic.ts";
import { queue } from "./queue.ts";
import { redisCounter } from "./redis-counter.ts";
import { redisLock } from "./redis-lock.ts";

export const STRATEGIES: Readonly<Record<BaselineName, StrategyModule>> = {
  "for-update": forUpdate,
  optimistic,
  "atomic-update": atomicUpdate,
  "redis-lock": redisLock,
  "redis-counter": redisCounter,
  queue,
};
