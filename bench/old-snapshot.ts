/** Somebody's old snapshot: a transaction that has read, and for which every version of every row since is kept. */
import { Connection } from "../shared/database/connection.ts";
import type { EventId } from "../shared/domain/ids.ts";

/** The snapshot is held for as long as its bench takes. */
const HELD_MS = 600_000;

/** Takes a snapshot, and changes the event as often as that many batches would. It is held until it is disposed. */
export async function holdOldSnapshot(url: string, event: EventId, changes: number): Promise<Disposable> {
  const open = () =>
    new Connection({ url, session: { application_name: "onsale-bench" }, statementMs: HELD_MS });
  const holder = open();
  await holder.run("begin isolation level repeatable read");
  await holder.run("select from events limit 1");
  using changer = open();
  // A transaction each, like a batch, but not each on disk before the next one.
  await changer.script("set synchronous_commit = off");
  await changer.script(`
    do $$ begin
      for change in 1 .. ${changes} loop
        update events set version = version + 1
        where ctid = (select ctid from events where id between '${event}' and '${event}' order by id desc limit 1);
        commit;
      end loop;
    end $$`);
  return holder;
}
