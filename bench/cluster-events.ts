/** The events of a benchmark: one over the API, or thousands in one statement a shard. */
import { type EventId, newEventId } from "../shared/domain/ids.ts";
import { Database, type Statement } from "../shared/database/database.ts";
import { slotOf } from "../shared/domain/slots.ts";
import { mintToken } from "../router/callers/tokens.ts";
import type { Event } from "../shared/domain/events.ts";
import { LIMITS } from "../shared/domain/limits.ts";

export interface EventFields {
  readonly totalTickets: number;
  /** The API's default when not given. */
  readonly maxPerUser?: number;
}

/** An event that has an id already. */
export interface NewEvent {
  readonly id: EventId;
  readonly totalTickets: number;
  readonly maxPerUser: number;
}

interface Shard {
  readonly databaseUrl: string;
}

const TOKEN_TTL_SECONDS = 3600;
const OWNED: Statement = {
  name: "bench-owned-slots",
  text: "select array(select slot from owned_slots)::integer[] as slots",
};
const INSERT: Statement = {
  name: "bench-insert-events",
  text: `
    with ids as (insert into event_ids select unnest($1::uuid[]))
    insert into events
      (id, slot, name, starts_at, total_tickets, available_tickets, max_per_user, highest_max_per_user, created_at, updated_at)
    select id, slot, 'Benchmark', '2099-01-01', total, total, max, max, now(), now()
    from unnest($1::uuid[], $2::smallint[], $3::integer[], $4::smallint[]) as e(id, slot, total, max)`,
};

/** Throws, with the answer, when it is refused. */
export async function createEvent(routerUrl: string, secret: string, fields: EventFields): Promise<Event> {
  const token = await mintToken({ secret, sub: "bench", role: "organizer", ttlSeconds: TOKEN_TTL_SECONDS });
  const headers = { authorization: `Bearer ${token}`, "content-type": "application/json" };
  const body = JSON.stringify({ name: "Benchmark", startsAt: "2099-01-01T20:00:00Z", ...fields });
  return eventIn(await fetch(`${routerUrl}/v1/events`, { method: "POST", headers, body }));
}

/** Throws, with the answer, when there is none. */
export async function readEvent(routerUrl: string, id: string): Promise<Event> {
  return eventIn(await fetch(`${routerUrl}/v1/events/${id}`));
}

/** Makes them with ids that fall on the shards in turns, so that each has its share. The ids are in that order. */
export async function makeEvents(
  shards: readonly Shard[],
  count: number,
  { totalTickets, maxPerUser = LIMITS.maxPerUserDefault }: EventFields,
): Promise<EventId[]> {
  const owned = await Promise.all(shards.map(ownedSlots));
  const events = Array.from({ length: count }, (_, number) => ({
    id: newIdIn(owned[number % owned.length] ?? new Set()),
    totalTickets,
    maxPerUser,
  }));
  await insertEvents(shards, events);
  return events.map(({ id }) => id);
}

/** Puts each where its slot is owned. Throws when no shard owns it. */
export async function insertEvents(shards: readonly Shard[], events: readonly NewEvent[]): Promise<void> {
  const owned = await Promise.all(shards.map(ownedSlots));
  const share = shards.map((): NewEvent[] => []);
  for (const event of events) {
    const part = share[owned.findIndex((slots) => slots.has(slotOf(event.id)))];
    if (part === undefined) throw new Error(`no shard owns the slot of event ${event.id}`);
    part.push(event);
  }
  await Promise.all(
    shards.map(async (shard, index) => {
      const part = share[index] ?? [];
      const ids = part.map(({ id }) => id);
      const totals = part.map(({ totalTickets }) => totalTickets);
      await query(shard, INSERT, [ids, ids.map(slotOf), totals, part.map(({ maxPerUser }) => maxPerUser)]);
    }),
  );
}

async function ownedSlots(shard: Shard): Promise<ReadonlySet<number>> {
  const [owned] = await query<{ slots: number[] }>(shard, OWNED, []);
  return new Set(owned?.slots);
}

function newIdIn(slots: ReadonlySet<number>): EventId {
  if (slots.size === 0) throw new Error("a shard of the benchmark's cluster owns no slots");
  for (;;) {
    const id = newEventId(Date.now());
    if (slots.has(slotOf(id))) return id;
  }
}

/** Runs one statement on a connection of its own. */
export async function query<Row extends object>(
  { databaseUrl }: Shard,
  statement: Statement,
  values: readonly unknown[],
): Promise<Row[]> {
  const database = new Database({ ...DATABASE, url: databaseUrl });
  try {
    return await database.query<Row>(statement, values);
  } finally {
    await database.close();
  }
}

/** The benchmark's own connection to a database. */
export const DATABASE = {
  applicationName: "onsale-bench",
  connectionsMax: 1,
  waitersMax: 10,
  connectTimeoutMs: 10_000,
  statementTimeoutMs: 60_000,
  lockTimeoutMs: 10_000,
};

async function eventIn(response: Response): Promise<Event> {
  if (!response.ok) throw new Error(`${response.url} answered ${response.status}: ${await response.text()}`);
  return (await response.json()) as Event;
}
