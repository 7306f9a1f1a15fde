/**
 * Three times what a shard can decide, in simulated time: node test/simulation/overload.ts SECONDS. One router and one node are
 * the product's own; the database decides a batch of one event after the other, and each takes as long. Beside the hot event
 * some buyers want tickets of a quiet one. Prints what everybody waited, as JSON.
 */
import { randomUUID } from "node:crypto";
import { createHistogram, type RecordableHistogram } from "node:perf_hooks";
import { type Command, isBookCommand } from "../../shared/domain/commands.ts";
import { type EventId, newEventId, type ShardId } from "../../shared/domain/ids.ts";
import { SLOT_COUNT, type Slot } from "../../shared/domain/slots.ts";
import type { BatchDecision, DecideOptions, FreshIds } from "../../shard-node/store/batch.ts";
import { startNode, startRouter, tokenFor } from "./cluster.ts";
import { give } from "./http.ts";
import { SimulatedBroker } from "./broker.ts";
import { Network, useNetwork } from "./network.ts";
import { SimulatedShard, SimulatedStore } from "./store.ts";
import { SimulatedCatalog } from "./surroundings.ts";
import { runWorld, World, world } from "./world.ts";

const BATCH_MAX = 10;
const BATCH_MS = 20;
/** One event is with one lane. */
const PEAK_PER_SECOND = (BATCH_MAX * 1_000) / BATCH_MS;
const SETTINGS = { lanes: 2, laneBatchMax: BATCH_MAX, rpcBatchMax: 500, cacheEventsMax: 100 };
const QUIET_PER_SECOND = 20;
const CALM_SECONDS = 5;
const MS = 1_000;

export interface OverloadFigures {
  readonly peakPerSecond: number;
  /** Bookings a second, and milliseconds. */
  readonly bookedPerSecond: number;
  readonly bookedP99: number;
  readonly refusedP99: number;
  readonly hotP99: { readonly before: number; readonly after: number };
  readonly quietP99: { readonly alone: number; readonly beside: number };
  /** By code. */
  readonly refusals: Readonly<Record<string, number>>;
}

/** Decides everything with yes, after a while. */
class SlowStore extends SimulatedStore {
  readonly #free = new Map<EventId, Promise<void>>();

  override async decide(
    commands: readonly Command[],
    ids: FreshIds,
    { locked }: DecideOptions = {},
  ): Promise<BatchDecision> {
    const bookings = commands.filter(isBookCommand);
    const events = [...new Set(bookings.map(({ eventId }) => eventId))];
    const before = events.map((event) => this.#free.get(event) ?? Promise.resolve());
    const { promise: over, resolve } = Promise.withResolvers<void>();
    for (const event of events) this.#free.set(event, over);
    await Promise.all(before);
    locked?.();
    await world().sleep(BATCH_MS);
    resolve();
    const now = world().time;
    const decisions = bookings.map(({ eventId, userId, quantity }, index) => ({
      outcome: "booked" as const,
      booking: {
        id: ids[index] as FreshIds[number],
        eventId,
        userId,
        quantity,
        status: "confirmed" as const,
        expiresAt: null,
        createdAt: now,
        updatedAt: now,
      },
    }));
    return { decisions, lockedEvents: [], snapshots: [], position: undefined, lockWaitSeconds: 0 };
  }
}

const overloadSeconds = Number(process.argv[2]);
const simulated = new World(1);
const shard = new SimulatedShard("shard-0" as ShardId, simulated.start("db"), {
  batch: () => ({ locked: () => undefined, over: () => undefined }),
  committed: () => undefined,
  settled: () => undefined,
});
for (let slot = 0; slot < SLOT_COUNT; slot += 1) shard.owned.add(slot as Slot);
const catalog = new SimulatedCatalog([shard.id], Array<ShardId>(SLOT_COUNT).fill(shard.id));
const network = new Network({ called: () => undefined });
useNetwork(network);
const surroundings = {
  redis: undefined,
  broker: new SimulatedBroker(simulated.start("rabbitmq"), {
    accepted: () => undefined,
    acknowledged: () => undefined,
    buried: () => undefined,
  }),
};

let done = false;
simulated.after(0, () => void overload().then(() => (done = true)));
await runWorld(simulated, () => done, Number.POSITIVE_INFINITY);
process.exit();

async function overload(): Promise<void> {
  const url = "http://node:8081";
  const node = startNode(
    simulated.start("node"),
    shard,
    catalog,
    surroundings,
    url,
    SETTINGS,
    new SlowStore(shard),
  );
  network.listen(url, node);
  await simulated.sleep(20);
  const router = startRouter(simulated.start("router"), [url], surroundings, SETTINGS, {
    loading: () => () => undefined,
  });
  await simulated.sleep(100);
  const [hot, quiet] = [newEventId(Date.now()), newEventId(Date.now())];
  const refusals: Record<string, number> = {};
  let buyers = 0;

  /** Bookings of an event at this rate; what booked and refused ones waited, in microseconds. */
  const load = async (event: EventId, perSecond: number, seconds: number) => {
    const [booked, refused] = [histogram(), histogram()];
    const requests = Array.from({ length: perSecond * seconds }, async (_, index) => {
      await simulated.sleep((index * MS) / perSecond);
      const started = simulated.now;
      const { status, code } = await book(event, `buyer-${(buyers += 1)}`);
      (status === 201 ? booked : refused).record(Math.max(1, Math.round((simulated.now - started) * MS)));
      if (status !== 201) refusals[code] = (refusals[code] ?? 0) + 1;
    });
    await Promise.all(requests);
    return { booked, refused };
  };

  const book = (event: EventId, user: string): Promise<{ status: number; code: string }> =>
    new Promise((resolve) => {
      const headers = {
        "content-type": "application/json",
        authorization: `Bearer ${tokenFor(user, "buyer")}`,
        "idempotency-key": randomUUID(),
      };
      const request = {
        method: "POST",
        path: `/v1/events/${event}/bookings`,
        headers,
        body: '{"quantity":1}',
      };
      let status = 0;
      let text = "";
      const hearer = {
        head: (heard: number) => void (status = heard),
        data: (piece: Buffer) => void (text += piece.toString()),
        end: () =>
          resolve({ status, code: status === 201 ? "" : (JSON.parse(text) as { code: string }).code }),
      };
      simulated.after(0, () => void give(router.server, request, hearer), router.process);
    });

  const alone = await load(quiet, QUIET_PER_SECOND, CALM_SECONDS);
  const before = await load(hot, PEAK_PER_SECOND / 2, CALM_SECONDS);
  const started = simulated.now;
  let ended = started;
  const [during, beside] = await Promise.all([
    load(hot, 3 * PEAK_PER_SECOND, overloadSeconds).finally(() => (ended = simulated.now)),
    load(quiet, QUIET_PER_SECOND, overloadSeconds),
  ]);
  // Everybody has an answer, so this begins about as long after the overload as the longest wait.
  const after = await load(hot, PEAK_PER_SECOND / 2, CALM_SECONDS);
  const figures: OverloadFigures = {
    peakPerSecond: PEAK_PER_SECOND,
    bookedPerSecond: (during.booked.count * MS) / (ended - started),
    bookedP99: p99(during.booked),
    refusedP99: p99(during.refused),
    hotP99: { before: p99(before.booked), after: p99(after.booked) },
    quietP99: { alone: p99(alone.booked), beside: p99(beside.booked) },
    refusals,
  };
  process.stdout.write(`${JSON.stringify(figures)}\n`);
}

function histogram(): RecordableHistogram {
  return createHistogram({ figures: 3, lowest: 1, highest: 60_000_000 });
}

/** In milliseconds. */
function p99(microseconds: RecordableHistogram): number {
  return microseconds.count === 0 ? 0 : microseconds.percentile(99) / MS;
}
