/** The contenders: the baselines that this machine can run, and onsale behind the same interface. */
import { BASELINES, missingPrograms, startBaseline } from "../baselines/start.ts";
import type { Contender } from "../baselines/contender.ts";
import type { BenchCluster } from "../bench-cluster.ts";
import { insertEvents, query } from "../cluster-events.ts";
import type { Statement } from "../../shared/database/database.ts";
import { parseEventId } from "../../shared/domain/ids.ts";

/** A contender that can be started; it ends when disposed. */
export interface Entrant {
  readonly name: string;
  readonly title: string;
  start(signal: AbortSignal): Promise<Contender>;
}

/** In the order of the tables. The others are compared with the first. */
export function entrantsOn(cluster: BenchCluster): { entrants: Entrant[]; skipped: string[] } {
  const postgresServerUrl = serverUrlOf(cluster);
  const [entrants, skipped]: [Entrant[], string[]] = [[], []];
  for (const { name, title } of BASELINES) {
    const missing = missingPrograms(name);
    if (missing.length > 0) skipped.push(`${name} (${title}) was left out: install ${missing.join(" and ")}`);
    else
      entrants.push({
        name,
        title,
        start: async (signal) => startBaseline(name, { postgresServerUrl, secret: cluster.secret, signal }),
      });
  }
  const own = onsale(cluster);
  entrants.push({ name: own.name, title: own.title, start: async () => own });
  return { entrants, skipped };
}

/** The server of the first shard: user, password and port, without a database. */
export function serverUrlOf({ shards }: BenchCluster): string {
  const url = new URL(shards[0]?.databaseUrl ?? "");
  url.pathname = "/";
  return url.href;
}

const ROLLBACKS: Statement = {
  name: "bench-rollbacks",
  text: "select xact_rollback::integer as rollbacks from pg_stat_database where datname = current_database()",
};

/** The cluster that already runs; disposing it ends nothing. */
function onsale(cluster: BenchCluster): Contender {
  const { router, shards, redis } = cluster;
  const [shard] = shards;
  if (shard === undefined || shards.length > 1)
    throw new Error("the comparison is about one PostgreSQL server, so the cluster has one shard");
  let audited = 0;
  return {
    name: "onsale",
    title: "batches decided by one function call each",
    url: router.url,
    processes: [
      { name: "router", pid: router.pid },
      { name: "node", pid: shard.nodePid },
      ...(redis?.pid === undefined ? [] : [{ name: "redis", pid: redis.pid }]),
    ],
    async createEvents(events) {
      const parsed = events.map((event) => {
        const id = parseEventId(event.id);
        if (id === undefined) throw new Error(`${event.id} is no event id`);
        return { ...event, id };
      });
      await insertEvents(shards, parsed);
    },
    settle: async () => undefined, // what it has confirmed is in PostgreSQL
    // A batch is tried again when its first transaction failed, and nothing else is. Nobody waits for a lock in the
    // application: a lane is a queue.
    stats: async () => {
      const [row] = await query<{ rollbacks: number }>(shard, ROLLBACKS, []);
      return { retries: row?.rollbacks ?? 0, lockWaitSeconds: undefined };
    },
    async audit() {
      const { bookings, violations } = await cluster.audit();
      const since = bookings - audited;
      audited = bookings;
      return { bookings: since, violations: violations.map((violation) => JSON.stringify(violation)) };
    },
    [Symbol.asyncDispose]: async () => undefined,
  };
}
