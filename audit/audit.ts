/**
 * Recomputes the rules from the rows of all shards. Each rule is one query for the rows that break it. A query is one
 * statement, so it sees one moment of its shard, and an audit may run under load.
 */
import type { EventId } from "../shared/domain/ids.ts";
import { Database, type Statement } from "../shared/database/database.ts";
import { SLOT_COUNT, slotOf } from "../shared/domain/slots.ts";

/** The rows that break one rule, at most `ROWS_MAX` of them. */
export interface Violation {
  readonly rule: string;
  readonly shard: string;
  readonly row: Readonly<Record<string, unknown>>;
}

export interface AuditReport {
  readonly shards: number;
  readonly events: number;
  readonly bookings: number;
  readonly ticketsSold: number;
  readonly violations: readonly Violation[];
}

/** Rows that are shown of one rule. */
export const ROWS_MAX = 100;

const SHARD_RULES: readonly Statement[] = [
  {
    name: "B1 never oversold",
    text: `select id, total_tickets, available_tickets from events
           where available_tickets < 0 or available_tickets > total_tickets limit ${ROWS_MAX}`,
  },
  {
    name: "B2 tickets are conserved",
    text: `
      select e.id, e.total_tickets, e.available_tickets, coalesce(b.taken, 0) as held_and_confirmed
      from events e
      left join (select event_id, sum(quantity)::integer as taken from bookings
                 where status in ('held', 'confirmed') group by event_id) b on b.event_id = e.id
      where e.total_tickets <> e.available_tickets + coalesce(b.taken, 0) limit ${ROWS_MAX}`,
  },
  {
    // An organizer may lower the limit after a sale; nobody may have more than the highest limit that there was.
    name: "B3 at most max_per_user",
    text: `
      select b.event_id, b.user_id, sum(b.quantity)::integer as tickets, e.highest_max_per_user
      from bookings b join events e on e.id = b.event_id
      where b.status in ('held', 'confirmed')
      group by b.event_id, b.user_id, e.highest_max_per_user
      having sum(b.quantity) > e.highest_max_per_user limit ${ROWS_MAX}`,
  },
  {
    name: "B4 one booking per key",
    text: `
      select event_id, user_id, idempotency_key, count(*)::integer as bookings from bookings
      group by event_id, user_id, idempotency_key having count(*) > 1 limit ${ROWS_MAX}`,
  },
  {
    // Up to where the log begins anew, versions were raised by a restore.
    name: "J1 what the log says of an event last is what it is",
    text: `
      select e.id, e.version, l.version as logged_version
      from (
        select x.id, max(x.version) as version
        from changes c cross join unnest(c.events, c.versions) as x(id, version)
        where c.position > (select until from changes_dropped)
        group by x.id
      ) l
      join events e on e.id = l.id
      where e.version <> l.version limit ${ROWS_MAX}`,
  },
  {
    // Outcomes are kept for a day; what is older has none.
    name: "Q1 what became of a request is what its booking says",
    text: `
      select o.booking_id, o.outcome, o.granted_id, b.status as booking, own.status as own_booking
      from request_outcomes o
      left join bookings b on b.id = o.granted_id
      left join bookings own on own.id = o.booking_id
      where (o.granted_id is not null and b.id is null)
         or (own.id is not null and o.granted_id is distinct from o.booking_id) limit ${ROWS_MAX}`,
  },
  {
    name: "R1 a booking carries its event's slot",
    text: `
      select b.id, b.event_id, b.slot, e.slot as event_slot
      from bookings b left join events e on e.id = b.event_id
      where e.slot is distinct from b.slot
         or get_byte(uuid_send(b.id), 6) % 16 * 256 + get_byte(uuid_send(b.id), 7) <> b.slot limit ${ROWS_MAX}`,
  },
  {
    name: "R3 a shard holds only events of slots it owns",
    text: `
      select e.id, e.slot from events e
      where not exists (select from owned_slots o where o.slot = e.slot) limit ${ROWS_MAX}`,
  },
];

/** The ids of the rules that an audit checks. A violation's `rule` begins with one of them. */
export const AUDITED_RULES = ["B1", "B2", "B3", "B4", "J1", "Q1", "R1", "R2", "R3"] as const;

const COUNTS: Statement = {
  name: "audit-counts",
  text: `
    select (select count(*) from events)::integer as events,
           (select count(*) from bookings)::integer as bookings,
           (select coalesce(sum(quantity), 0) from bookings where status = 'confirmed')::integer as "ticketsSold"`,
};
const SHARDS: Statement = {
  name: "audit-shards",
  text: `
    select s.id, s.database_url as "databaseUrl", s.timeline,
           array(select slot from slots where shard_id = s.id)::integer[] as slots
    from shards s order by s.id`,
};
const OWNED: Statement = {
  name: "audit-owned",
  text: `select array(select slot from owned_slots)::integer[] as slots`,
};
const SLOTS_PAGE: Statement = {
  name: "audit-slots",
  text: `select id, slot from events where $1::uuid is null or id > $1 order by id limit 10000`,
};

/** Audits every shard of the catalog. Throws DatabaseError when a shard does not answer, or its server was replaced. */
export async function audit(catalogUrl: string): Promise<AuditReport> {
  const shards = await shardsIn(catalogUrl);
  const parts = await Promise.all(
    shards.map(async (shard) =>
      withDatabase(shard.databaseUrl, async (database) => auditShard(shard, database), shard.timeline),
    ),
  );
  const owners = new Map<number, string[]>();
  for (const [index, shard] of shards.entries()) {
    for (const slot of parts[index]?.ownedSlots ?? [])
      owners.set(slot, [...(owners.get(slot) ?? []), shard.id]);
  }
  const assigned = new Map(shards.flatMap((shard) => shard.slots.map((slot) => [slot, shard.id] as const)));
  const slotViolations: Violation[] = [];
  for (let slot = 0; slot < SLOT_COUNT && slotViolations.length < ROWS_MAX; slot += 1) {
    const [owner, ...others] = owners.get(slot) ?? [];
    if (owner !== undefined && others.length === 0 && owner === assigned.get(slot)) continue;
    const row = { slot, catalogOwner: assigned.get(slot) ?? null, ownedBy: owners.get(slot) ?? [] };
    slotViolations.push({ rule: "R2 every slot has exactly one owner", shard: "catalog", row });
  }
  const sum = (pick: (part: ShardAudit) => number) => parts.reduce((total, part) => total + pick(part), 0);
  return {
    shards: shards.length,
    events: sum((part) => part.events),
    bookings: sum((part) => part.bookings),
    ticketsSold: sum((part) => part.ticketsSold),
    violations: [...slotViolations, ...parts.flatMap((part) => part.violations)],
  };
}

/** Where the shards are, and which slots the catalog gives them. Throws DatabaseError when the catalog does not answer. */
export async function shardsIn(
  catalogUrl: string,
): Promise<{ id: string; databaseUrl: string; timeline: number; slots: number[] }[]> {
  return withDatabase(catalogUrl, async (catalog) => catalog.query(SHARDS));
}

interface ShardAudit {
  readonly events: number;
  readonly bookings: number;
  readonly ticketsSold: number;
  readonly ownedSlots: readonly number[];
  readonly violations: Violation[];
}

async function auditShard(shard: { id: string }, database: Database): Promise<ShardAudit> {
  const violations: Violation[] = [];
  for (const rule of SHARD_RULES) {
    const rows = await database.query<Record<string, unknown>>(rule);
    violations.push(...rows.map((row) => ({ rule: rule.name, shard: shard.id, row })));
  }
  // SQL has no such hash, so this rule is checked here, page by page.
  let after: EventId | null = null;
  for (;;) {
    const page: { id: EventId; slot: number }[] = await database.query(SLOTS_PAGE, [after]);
    for (const { id, slot } of page) {
      if (slotOf(id) !== slot)
        violations.push({ rule: "R1 an event is in its slot", shard: shard.id, row: { id, slot } });
    }
    after = page.at(-1)?.id ?? null;
    if (after === null) break;
  }
  const [counts] = await database.query<Pick<ShardAudit, "events" | "bookings" | "ticketsSold">>(COUNTS);
  const [owned] = await database.query<{ slots: number[] }>(OWNED);
  return {
    ...(counts ?? { events: 0, bookings: 0, ticketsSold: 0 }),
    ownedSlots: owned?.slots ?? [],
    violations,
  };
}

/** Opens it for `use`. */
export async function withDatabase<T>(
  url: string,
  use: (database: Database) => Promise<T>,
  timeline?: number,
): Promise<T> {
  const database = openDatabase(url, timeline);
  try {
    return await use(database);
  } finally {
    await database.close();
  }
}

/** Connects to nothing yet. A server of an older timeline was replaced: its rows are not the shard's any more. */
export function openDatabase(url: string, timeline = 0): Database {
  const database = new Database({
    url,
    applicationName: "onsale-audit",
    connectionsMax: 1,
    waitersMax: 10,
    connectTimeoutMs: 10_000,
    statementTimeoutMs: 600_000,
    lockTimeoutMs: 10_000,
  });
  database.refuseBefore(timeline);
  return database;
}
