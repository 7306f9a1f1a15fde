/** Fresh shards on the server of another one. What two of them take, one with its log and one without, is the cost of the log. */
import { migrate } from "../migrations/runner.ts";
import type { Statement } from "../shared/database/database.ts";
import { SLOT_COUNT } from "../shared/domain/slots.ts";
import { query } from "./cluster-events.ts";

const OWN: Statement = {
  name: "bench-own-slots",
  text: `select acquire_slots(array(select generate_series(0, ${SLOT_COUNT - 1}))::smallint[], 1)`,
};
const LOG_NOTHING: Statement = {
  name: "bench-log-nothing",
  text: `
    create or replace function log_change(
      p_at timestamptz, p_events uuid[], p_versions bigint[], p_available integer[], p_event json,
      p_held uuid[], p_confirmed uuid[], p_cancelled uuid[], p_expired uuid[]
    ) returns bigint language plpgsql as $$ begin return null; end $$`,
};

/** A database of this name, which owns every slot. It ends with its server. */
export async function freshShard(
  besideUrl: string,
  name: "with_log" | "without_log",
): Promise<{ readonly databaseUrl: string }> {
  const create = { name: "bench-create-database", text: `create database ${name}` };
  await query({ databaseUrl: besideUrl }, create, []);
  const url = new URL(besideUrl);
  url.pathname = `/${name}`;
  await migrate(url.href, "shard");
  const shard = { databaseUrl: url.href };
  await query(shard, OWN, []);
  if (name === "without_log") await query(shard, LOG_NOTHING, []);
  return shard;
}
