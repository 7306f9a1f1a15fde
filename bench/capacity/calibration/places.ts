/**
 * Routers and load generators on one core and everything behind them on another. A cluster gives each process a core of its
 * own; a scheduler that may move them between two cores makes caches cold and lets client and router wait for each other,
 * and what is measured is that.
 */
import type { BenchCluster } from "../../cluster.ts";
import type { Generator } from "../../load/run.ts";
import { pin } from "../../processes.ts";
import { childrenOf } from "./processor-time.ts";

export const FRONT_CORE = 0;
const BACK_CORE = 1;

/** Until disposed. Says whether the system can do it. */
export function keepApart(
  { routers, shards, redis }: BenchCluster,
  generators: readonly Generator[],
): { readonly apart: boolean } & Disposable {
  const front = [...routers.map(({ pid }) => pid), ...generators.map(({ pid }) => pid)];
  // Sessions that a database has already are moved; later ones begin where it is.
  const back = [
    ...shards.flatMap(({ nodePid, postgresPid }) => [nodePid, postgresPid, ...childrenOf(postgresPid)]),
    ...(redis?.pid === undefined ? [] : [redis.pid]),
  ];
  const pins = [...front.map((pid) => pin(pid, FRONT_CORE)), ...back.map((pid) => pin(pid, BACK_CORE))];
  return {
    apart: pins.some(({ pinned }) => pinned),
    [Symbol.dispose]: () => {
      for (const each of pins) each[Symbol.dispose]();
    },
  };
}
