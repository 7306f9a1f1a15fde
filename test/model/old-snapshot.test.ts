/** Somebody's old snapshot, which keeps every version of every event alive: what batches cost beside it, and who sees it. */
import { expect, test } from "vitest";
import { newBookingId, newEventId } from "../../shared/ids.ts";
import { slotOf } from "../../shared/slots.ts";
import { startTestCluster } from "../support/cluster.ts";
import { connectTo, createDatabase } from "../support/databases.ts";
import { eventually } from "../support/eventually.ts";

const CHANGES = 5_000;
const BOOKINGS = 5;

test("G3: a batch reads as many pages beside an old snapshot, after thousands of changes of the event, as without", async () => {
  await using database = await createDatabase("shard");
  using client = connectTo(database.url);
  using other = connectTo(database.url);
  const id = newEventId(Date.now());
  await client.run("insert into owned_slots (slot, map_version) values ($1, 1)", [slotOf(id)]);
  await client.run("select create_event($1, $2, 'Rush', null, '2099-01-01', null, null, 100000, 2, now())", [
    id,
    slotOf(id),
  ]);
  const book = async (): Promise<number> => {
    const each = Array.from({ length: BOOKINGS }, (_, number) => number);
    const rows = await client.run<{ "QUERY PLAN": [{ Plan: Record<string, number> }] }>(
      `explain (analyze, buffers, format json) select decide_batch(
         $1, $2, $3, $4, $5, $6, $7, $8, '{}', '{}', '{}', '{}')`,
      [
        [id],
        [slotOf(id)],
        each.map(() => 1),
        each.map(() => `buyer-${crypto.randomUUID()}`),
        each.map(() => 1),
        each.map(() => 0),
        each.map(() => crypto.randomUUID()),
        each.map(() => newBookingId(slotOf(id), Date.now())),
      ],
    );
    const plan = rows[0]?.["QUERY PLAN"][0].Plan;
    return (plan?.["Shared Hit Blocks"] ?? 0) + (plan?.["Shared Read Blocks"] ?? 0);
  };
  await book(); // plans and catalogs
  const without = await book();

  await other.run("begin isolation level repeatable read");
  await other.run("select from events");
  // Each change is a transaction of its own, like each batch.
  await client.script(`do $$ begin
    for change in 1 .. ${CHANGES} loop
      update events set version = version + 1
      where ctid = (select ctid from events where id between '${id}' and '${id}' order by id desc limit 1);
      commit;
    end loop;
  end $$`);
  const beside = await book();

  const versions = await other.run<{ version: string }>("select version from events");
  expect(Number(versions[0]?.version)).toBeLessThan(10); // or there would be no old snapshot
  expect(without).toBeGreaterThan(BOOKINGS);
  expect(beside).toBeLessThan(1.5 * without);
});

test("W2: a node tells how old the oldest snapshot of its shard is, and forgets it when it has ended", async () => {
  await using cluster = await startTestCluster({ shards: 1 });
  const seconds = async (): Promise<number> => {
    const metrics = await (await fetch(`${cluster.nodes[0]?.adminUrl}/metrics`)).text();
    return Number(/^onsale_db_oldest_snapshot_seconds ([\d.e-]+)$/m.exec(metrics)?.[1]);
  };
  using other = connectTo(cluster.shards[0]?.databaseUrl ?? "");
  await other.run("begin"); // with no snapshot yet it keeps nothing alive
  await eventually("the node has sampled", async () => (await seconds()) < 1);

  await other.run("set transaction isolation level repeatable read");
  await other.run("select from events");
  await eventually("it is seen", async () => (await seconds()) > 1);

  await other.run("commit");
  await eventually("it is forgotten", async () => (await seconds()) < 1);
});
