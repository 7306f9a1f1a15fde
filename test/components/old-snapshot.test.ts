/** Somebody's old snapshot, which keeps every version of every event alive: what batches cost beside it, and who sees it. */
import { randomUUID } from "node:crypto";
import { expect, test } from "vitest";
import { newBookingId, newEventId } from "../../shared/domain/ids.ts";
import { slotOf } from "../../shared/domain/slots.ts";
import { startTestCluster } from "../support/running-cluster.ts";
import { connectTo, createDatabase } from "../support/databases.ts";
import { eventually } from "../support/eventually.ts";

const CHANGES = 5_000;
const HOLDS = 3_000;
const BOOKINGS = 5;
/** When the stories begin; each is told in seconds after it. */
const BEGIN = Date.now();

test("G3: a batch reads as many pages beside an old snapshot, after thousands of changes of the event, as without", async () => {
  await using shard = await givenShard();
  await shard.decide({ bookings: BOOKINGS }); // plans and catalogs
  const without = await shard.decide({ bookings: BOOKINGS });

  using snapshot = await shard.oldSnapshot();
  // Each change is a transaction of its own, like each batch.
  await shard.client.script(`do $$ begin
    for change in 1 .. ${CHANGES} loop
      update events set version = version + 1
      where ctid = (select ctid from events where id between '${shard.id}' and '${shard.id}' order by id desc limit 1);
      commit;
    end loop;
  end $$`);
  const beside = await shard.decide({ bookings: BOOKINGS });

  expect(await snapshot.version()).toBeLessThan(10); // or there would be no old snapshot
  expect(without.pages).toBeGreaterThan(BOOKINGS);
  expect(beside.pages).toBeLessThan(1.5 * without.pages);
});

test("G3 B6: a batch reads as many pages beside an old snapshot, after thousands of holds have ended, as without", async () => {
  const tell = async (isBeside: boolean): Promise<number> => {
    await using shard = await givenShard();
    using stack = new DisposableStack();
    if (isBeside) stack.use(await shard.oldSnapshot());
    const { ids } = await shard.decide({ bookings: HOLDS, holdSeconds: 10, at: 1 });
    await shard.decide({ bookings: BOOKINGS, holdSeconds: 10, at: 2 });
    await shard.decide({ confirm: ids, at: 3 });
    // Twice, because the first batch removes from the index what may be removed.
    await shard.decide({ bookings: BOOKINGS, at: 20 });
    const { pages } = await shard.decide({ bookings: BOOKINGS, at: 21 });

    const rows = await shard.client.run(
      "select status, count(*)::integer from bookings group by 1 order by 1",
    );
    expect(rows).toEqual([
      { status: "confirmed", count: HOLDS + 2 * BOOKINGS },
      { status: "expired", count: BOOKINGS },
    ]);
    return pages;
  };

  expect(await tell(true)).toBeLessThan(1.3 * (await tell(false)));
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

/** A shard with one event, asked directly. */
async function givenShard() {
  const database = await createDatabase("shard");
  const client = connectTo(database.url);
  const id = newEventId(BEGIN);
  const slot = slotOf(id);
  await client.run("insert into owned_slots (slot, map_version) values ($1, 1)", [slot]);
  const fields = [id, slot, "Rush", null, "2099-01-01", null, null, 100_000, 2, new Date(BEGIN)];
  await client.run("select create_event($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)", fields);

  /** Decides a batch of bookings by as many new users, or of confirmations. Tells the pages that it read. */
  async function decide(batch: {
    bookings?: number;
    holdSeconds?: number;
    confirm?: readonly string[];
    at?: number;
  }) {
    const { bookings = 0, holdSeconds = 0, confirm = [], at = 0 } = batch;
    const each = <T>(make: () => T): T[] => Array.from({ length: bookings }, make);
    const ids = each(() => newBookingId(slot, BEGIN));
    const values = [
      bookings > 0 ? [id] : [],
      bookings > 0 ? [slot] : [],
      each(() => 1),
      each(() => `buyer-${randomUUID()}`),
      each(() => 1),
      each(() => holdSeconds),
      each(() => randomUUID()),
      ids,
      confirm.map(() => "confirm"),
      confirm,
      confirm.map(() => slot),
      confirm.map(() => null),
      new Date(BEGIN + at * 1000),
    ];
    const places = values.map((_, index) => `$${index + 1}`).join(", ");
    const rows = await client.run<{ "QUERY PLAN": [{ Plan: Record<string, number> }] }>(
      `explain (analyze, buffers, format json) select decide_batch(${places})`,
      values,
    );
    const plan = rows[0]?.["QUERY PLAN"][0].Plan;
    return { ids, pages: (plan?.["Shared Hit Blocks"] ?? 0) + (plan?.["Shared Read Blocks"] ?? 0) };
  }

  async function oldSnapshot() {
    const other = connectTo(database.url);
    await other.run("begin isolation level repeatable read");
    await other.run("select from events");
    return {
      /** Of the event, as the snapshot has it. */
      async version(): Promise<number> {
        const rows = await other.run<{ version: string }>("select version from events");
        return Number(rows[0]?.version);
      },
      [Symbol.dispose]: () => other.close(),
    };
  }

  return {
    id,
    client,
    decide,
    oldSnapshot,
    async [Symbol.asyncDispose]() {
      client.close();
      await database[Symbol.asyncDispose]();
    },
  };
}
