/**
 * Whether the shard's database takes writes. Reads do not tell: they work on a full disk, on a server that only reads, and
 * while no commit is confirmed. So the check does what a booking needs and leaves nothing behind: it writes some 200 kB to the
 * disk (a sort of few wide rows that does not fit into the least memory that PostgreSQL allows), and commits a message in the log.
 */
import type { Database, Statement } from "../../shared/database/database.ts";
import { oneRow } from "./row-locks.ts";

// PostgreSQL evaluates the select list from left to right.
const WRITE: Statement = {
  name: "check-writing",
  text: `
    select set_config('work_mem', '64kB', true),
           (select max(length(wide))
            from (select repeat('x', 8000) as wide from generate_series(1, 24) n order by -n) sorted),
           pg_logical_emit_message(true, 'onsale', 'can write'),
           current_setting('transaction_read_only')::boolean as "readOnly"`,
};

/** Throws when the database takes no writes; a DatabaseError says why. */
export async function checkWriting(database: Database): Promise<void> {
  const { readOnly } = await oneRow<{ readOnly: boolean }>(database, WRITE, []);
  if (readOnly) throw new Error("the database accepts no writes");
}
