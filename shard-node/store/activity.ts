/** What happens in the shard's database, as its operators see it. */
import type { Database, Statement } from "../../shared/database/database.ts";
import { oneRow } from "./row-locks.ts";

const SAMPLE: Statement = {
  name: "sample-activity",
  text: `
    select count(*) filter (where backend_type = 'client backend')::integer as backends,
           count(*) filter (where wait_event_type = 'Lock')::integer as "lockWaiters",
           -- An archiver (pg_receivewal) and a base backup stand there too. They replay nothing, so their replay_lag only grows.
           (select coalesce(max(extract(epoch from replay_lag)), 0)::float8 from pg_stat_replication
            where replay_lsn is not null) as "replicaLagSeconds",
           extract(epoch from coalesce(greatest(
             max(clock_timestamp() - xact_start) filter (where backend_xmin is not null or backend_xid is not null),
             (select max(clock_timestamp() - prepared) from pg_prepared_xacts where database = current_database())
           ), '0'))::float8 as "oldestSnapshotSeconds"
    from pg_stat_activity where datname = current_database()`,
};

export interface Activity {
  readonly backends: number;
  readonly lockWaiters: number;
  readonly replicaLagSeconds: number;
  readonly oldestSnapshotSeconds: number;
}

/** Throws DatabaseError. */
export async function sampleActivity(database: Database): Promise<Activity> {
  return oneRow<Activity>(database, SAMPLE, []);
}
