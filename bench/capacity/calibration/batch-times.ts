/** How long a lane is busy with a batch: batches of several sizes through BookingStore, one at a time, as a node has them decided. */
import { slotOf } from "../../../shared/domain/slots.ts";
import { BookingStore } from "../../../shard-node/store/booking-store.ts";
import { type EventId, newIdempotencyKey, type UserId } from "../../../shared/domain/ids.ts";
import { Database } from "../../../shared/database/database.ts";
import type { BookCommand } from "../../../shared/domain/commands.ts";
import { median } from "../../figures.ts";
import type { BatchTime } from "../costs.ts";
import { nonNegativeLine } from "../fit.ts";

/** Batches of so many bookings, and how many of each. */
const SIZES = [
  { size: 1, batches: 24 },
  { size: 10, batches: 16 },
  { size: 60, batches: 12 },
  { size: 250, batches: 8 },
  { size: 500, batches: 6 },
];
const BUDGET_MS = 60_000;
const TIMEOUTS = { connectTimeoutMs: 10_000, statementTimeoutMs: 60_000, lockTimeoutMs: 10_000 };

export interface BatchTimes {
  readonly batchTime: BatchTime;
  /** Measured times as shares of the fitted ones. */
  readonly shares: readonly number[];
}

/** Books on events of this shard: `hot` is one of them and `spread` are many. Milliseconds. */
export async function measureBatchTimes(
  databaseUrl: string,
  events: { hot: EventId; spread: readonly EventId[] },
  userPrefix: string,
): Promise<BatchTimes> {
  await using shard = open(databaseUrl);
  await using careless = open(withoutFlush(databaseUrl));
  let users = 0;
  const measure = async (store: BookingStore, on: readonly EventId[], size: number, batches: number) => {
    const times: number[] = [];
    for (let number = 0; number <= batches; number += 1) {
      const batch = Array.from({ length: size }, (_, index): BookCommand => {
        users += 1;
        return {
          kind: "book",
          eventId: on[(number * size + index) % on.length] as EventId,
          userId: `${userPrefix}-${users}` as UserId,
          quantity: 1,
          key: newIdempotencyKey(),
          slot: slotOf(on[(number * size + index) % on.length] as EventId),
          deadline: BUDGET_MS,
        };
      });
      const started = performance.now();
      await store.decide(batch, store.freshIdsFor(batch));
      if (number > 0) times.push(performance.now() - started); // the first makes plans
    }
    return times;
  };

  const points: { kind: "hot" | "spread"; size: number; ms: number }[] = [];
  const kinds = [
    { kind: "hot", on: [events.hot] },
    { kind: "spread", on: events.spread },
  ] as const;
  for (const { size, batches } of SIZES) {
    for (const { kind, on } of kinds)
      for (const ms of await measure(shard.store, on, size, batches)) points.push({ kind, size, ms });
  }
  const [{ batches: single }] = SIZES as [(typeof SIZES)[number]];
  const alone = points.filter(({ kind, size }) => kind === "spread" && size === 1).map(({ ms }) => ms);
  const unflushed = await measure(careless.store, events.spread, 1, single);
  const flush = Math.max(0, median(alone) - median(unflushed));
  const lineOf = (wanted: "hot" | "spread") => {
    // Medians of each size: a checkpoint in the middle of one batch is for the shares to show, not for the line.
    const line = nonNegativeLine(
      SIZES.map(({ size }) => ({
        x: size,
        y: median(points.filter((point) => point.kind === wanted && point.size === size).map(({ ms }) => ms)),
      })),
    );
    return { fixed: Math.max(0, line.fixed - flush), booking: line.slope };
  };
  const batchTime = { hot: lineOf("hot"), spread: lineOf("spread"), flush };
  const shares = points.map(({ kind, size, ms }) => {
    const { fixed, booking } = batchTime[kind];
    return ms / (fixed + flush + booking * size);
  });
  return { batchTime, shares };
}

function open(url: string): { store: BookingStore } & AsyncDisposable {
  const database = new Database({
    url,
    applicationName: "onsale-bench",
    connectionsMax: 1,
    waitersMax: 10,
    ...TIMEOUTS,
  });
  return { store: new BookingStore(database, Date.now), [Symbol.asyncDispose]: async () => database.close() };
}

/** A connection on which commits do not wait for the disk; what they then take less is the flush. */
function withoutFlush(databaseUrl: string): string {
  const url = new URL(databaseUrl);
  url.searchParams.set("options", "-c synchronous_commit=off");
  return url.href;
}
