/** What the read side measures. Each metric answers one question, said in its help. */
import type { Database } from "../shared/database/database.ts";
import type { ShardId } from "../shared/domain/ids.ts";
import { CONNECTION_SHED } from "../shared/process/connections.ts";
import { HttpMetrics, instruments, LATENCY_BUCKETS, type Registry } from "../shared/watch/metrics.ts";
import { ANSWER_SHED, type Answers } from "./answers.ts";
import type { Arrivals } from "./follow/arrivals.ts";
import type { Upkeep } from "./follow/upkeep.ts";

interface Watched {
  readonly upkeep: Pick<Upkeep, "found" | "isRebuilding">;
  readonly arrivals: Pick<Arrivals, "waiting">;
  readonly answers: Pick<Answers, "exports">;
  /** The shards that there are. */
  readonly shards: () => Iterable<ShardId>;
  readonly databases: readonly Pick<Database, "pool">[];
}

export function createReadSideMetrics(registry: Registry) {
  const { histogram, counters, read } = instruments(registry);
  const shed = counters("onsale_shed_total", "Work refused because it could not be done in time.", "reason", [
    ...ANSWER_SHED,
    ...CONNECTION_SHED,
  ]);
  const freshness = histogram(
    "onsale_read_side_freshness_seconds",
    "From the moment of a change on its shard until it can be read here.",
    [...LATENCY_BUCKETS, 10, 30, 60, 300],
  );
  const poolWait = histogram("onsale_db_pool_wait_seconds", "How long a statement waits for a connection.");
  const poolHold = histogram("onsale_db_pool_hold_seconds", "How long a statement holds a connection.");
  return {
    http: new HttpMetrics(registry),
    shed,
    fresh: (seconds: number) => freshness.observe(seconds),
    waited: (seconds: number) => poolWait.observe(seconds),
    held: (seconds: number) => poolHold.observe(seconds),
    /** Figures that are read at each scrape. */
    watch({ upkeep, arrivals, answers, shards, databases }: Watched): void {
      read(
        "onsale_read_side_lag_seconds",
        "How long ago everything on the shard was in; nothing for a shard that is not whole yet.",
        () =>
          [...shards()].flatMap((shard): [string, number][] => {
            const { asOf = null, copied } = upkeep.found?.positions[shard] ?? {};
            if (asOf === null || copied !== null) return [];
            return [[shard, Math.max(0, (Date.now() - Date.parse(asOf)) / 1000)]];
          }),
        "shard",
      );
      read("onsale_read_side_rebuilding", "1 while new tables are filled.", () =>
        Number(upkeep.isRebuilding),
      );
      read("onsale_read_side_waiting", "Lists that wait until they have a change.", () => arrivals.waiting);
      read("onsale_read_side_exports", "Exports that are being written.", () => answers.exports);
      const sum = (state: keyof Database["pool"]) => () =>
        databases.reduce((total, { pool }) => total + pool[state], 0);
      read("onsale_db_pool_waiting", "Statements that wait for a connection.", sum("waiting"));
      const states = ["busy", "idle"] as const;
      read(
        "onsale_db_pool_connections",
        "Connections of the pool by state.",
        () => states.map((state) => [state, sum(state)()]),
        "state",
      );
    },
  };
}
