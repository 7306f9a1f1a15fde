import { bookCommand, ORGANIZER } from "../support/commands.ts";
/**
 * A pooler that shares sessions ignores the settings that a connection is opened with. A URL that sets them to nothing does
 * the same to a connection.
 */
import { expect, test } from "vitest";
import { BookingStore } from "../../shard-node/store/booking-store.ts";
import type { EventId } from "../../shared/domain/ids.ts";
import { createDatabase, lockEvent, openDatabase, storeEvent } from "../support/databases.ts";

async function givenLockedEvent(bounds: { lockTimeoutMs: number; statementTimeoutMs: number }) {
  const created = await createDatabase("shard");
  const unset = "lock_timeout=0&statement_timeout=0&idle_in_transaction_session_timeout=0";
  const database = openDatabase(`${created.url}?${unset}`, { connectionsMax: 1, ...bounds });
  const store = new BookingStore(database, () => Date.now());
  const id = await storeEvent(created.url, 10);
  const blocker = await lockEvent(created.url, id);
  return {
    database,
    store,
    id,
    release: async () => blocker.run("rollback"),
    async [Symbol.asyncDispose]() {
      blocker.close();
      await database.close();
      await created[Symbol.asyncDispose]();
    },
  };
}

async function book(store: BookingStore, eventId: EventId) {
  const command = bookCommand(eventId, "a");
  return store.decide([command], store.freshIdsFor([command]));
}

const SETTINGS = {
  name: "settings",
  text: "select current_setting('lock_timeout') as lock, current_setting('transaction_timeout') as transaction",
};

test.each([
  { what: "lock", bounds: { lockTimeoutMs: 300, statementTimeoutMs: 20_000 }, sqlState: "55P03" },
  { what: "transaction", bounds: { lockTimeoutMs: 20_000, statementTimeoutMs: 300 }, sqlState: "25P04" },
])(
  "P3: a batch and a change of an event bring the bound on their $what along",
  async ({ bounds, sqlState }) => {
    await using given = await givenLockedEvent(bounds);
    const { store, database, id } = given;

    await expect(book(store, id)).rejects.toMatchObject({ kind: "refused", sqlState });
    const change = { id, organizer: ORGANIZER, changes: { name: "Other" } };
    await expect(store.changeEvent(change)).rejects.toMatchObject({
      kind: "refused",
      sqlState,
    });

    await given.release();
    expect((await book(store, id)).decisions).toMatchObject([{ outcome: "booked" }]);
    // The session is as it was: whoever has it next is not bound by it.
    expect(await database.query(SETTINGS)).toEqual([{ lock: "0", transaction: "0" }]);
  },
);
