/**
 * Compares the read side with the shards, while both go on. Every booking and every event is looked at on both sides, page by
 * page. What the read side counts is counted again from its own rows, in statements that see one moment.
 *
 * The read side may be behind, but never ahead. So what looks different is read thrice: on the shard, then on the read side once it has
 * everything up to there, then on the shard again. Whatever happens meanwhile, what the read side has must lie between the two.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { DatabaseError, type Database, type Statement } from "../shared/database/database.ts";
import { type ShardId, slotOfBooking } from "../shared/domain/ids.ts";
import { type Slot, slotOf } from "../shared/domain/slots.ts";
import { openDatabase, ROWS_MAX, shardsIn, type Violation } from "./audit.ts";
import {
  type BookingRow,
  BOOKINGS,
  BOOKINGS_PAGE,
  COMPARED_VERSION,
  COUNTS,
  type EventRow,
  EVENTS,
  EVENTS_PAGE,
  LOGGED_EVENT,
  NEWEST_POSITION,
  VIEWS_BOOKINGS,
  VIEWS_BOOKINGS_PAGE,
  VIEWS_EVENTS,
  VIEWS_EVENTS_PAGE,
  VIEWS_FOUND,
  VIEWS_POSITION,
} from "./read-side-rows.ts";

/** How long the read side may take to have what a shard has. */
const ARRIVAL_WAIT_MAX_MS = 60_000;
const ARRIVAL_LOOK_MS = 50;
/** The relation does not exist (PostgreSQL manual, appendix A). */
const UNDEFINED_TABLE = "42P01";
/** Before all ids. */
const FIRST_ID = "00000000-0000-0000-0000-000000000000";

export interface Comparison {
  /** Bookings of the read side. */
  readonly bookings: number;
  readonly violations: readonly Violation[];
}

export interface CompareOptions {
  readonly arrivalWaitMs?: number;
  /** Hears after each page how many bookings of the read side were compared. */
  readonly progress?: (bookings: number) => void;
}

/**
 * Compares the read side with all shards. Throws DatabaseError when a database does not answer, or the read side has no tables that can
 * be compared.
 */
export async function auditReadSide(
  catalogUrl: string,
  readSideUrl: string,
  options: CompareOptions = {},
): Promise<Comparison> {
  await using open = new AsyncDisposableStack();
  const connect = (url: string, timeline?: number): Database =>
    open.adopt(openDatabase(url, timeline), async (database) => database.close());
  const shards = (await shardsIn(catalogUrl)).map(({ id, databaseUrl, timeline, slots }) => ({
    id: id as ShardId,
    database: connect(databaseUrl, timeline),
    slots: new Set(slots),
  }));
  return await new Comparing(connect(readSideUrl), shards, options).run();
}

interface Shard {
  readonly id: ShardId;
  readonly database: Database;
  readonly slots: ReadonlySet<number>;
}

/** Names a row on both sides: bookings of the read side are found by their users. */
interface Key {
  readonly id: string;
  readonly userId?: string;
}
const keyText = ({ id, userId = "" }: Key): string => `${id} ${userId}`;

/** What is compared, and how. */
interface Kind<Row extends Key> {
  readonly missing: string;
  readonly surplus: string;
  readonly other: string;
  readonly slotOf: (row: Row) => Slot;
  readonly viewsPage: Statement;
  /** Where a page of the read side begins: after this row. */
  readonly viewsAfter: (row: Row | undefined) => readonly unknown[];
  readonly views: Statement;
  readonly viewsKeys: (keys: readonly Key[]) => readonly unknown[];
  readonly shardPage: Statement;
  readonly shard: Statement;
  /** In what the read side differs, although it was read between the other two, which may be the same. */
  readonly differences: (seen: Row, before: Row, after: Row, shard: Shard) => Promise<readonly (keyof Row)[]>;
}

const BOOKING_KIND: Kind<BookingRow> = {
  missing: "V1 the read side has every booking",
  surplus: "V1 the read side has no other bookings",
  other: "V1 a booking is what its shard says",
  slotOf: ({ id }) => slotOfBooking(id),
  viewsPage: VIEWS_BOOKINGS_PAGE,
  viewsAfter: (row) => [row?.userId ?? "", row?.id ?? FIRST_ID],
  views: VIEWS_BOOKINGS,
  viewsKeys: (keys) => [keys.map(({ userId }) => userId), keys.map(({ id }) => id)],
  shardPage: BOOKINGS_PAGE,
  shard: BOOKINGS,
  async differences(seen, before, after) {
    const fields = unequal(seen, after, ["userId", "eventId", "quantity", "createdAt"]);
    if (seen.status < before.status || seen.status > after.status) return [...fields, "status"];
    if (seen.status !== after.status) return fields;
    const { knowsConfirmedAt = true } = after;
    return [
      ...fields,
      ...unequal(seen, after, knowsConfirmedAt ? ["confirmedAt", "cancelledAt"] : ["cancelledAt"]),
    ];
  },
};

const EVENT_KIND: Kind<EventRow> = {
  missing: "V1 the read side has every event",
  surplus: "V1 the read side has no other events",
  other: "V1 an event is what its shard says",
  slotOf: ({ id }) => slotOf(id),
  viewsPage: VIEWS_EVENTS_PAGE,
  viewsAfter: (row) => [row?.id ?? FIRST_ID],
  views: VIEWS_EVENTS,
  viewsKeys: (keys) => [keys.map(({ id }) => id)],
  shardPage: EVENTS_PAGE,
  shard: EVENTS,
  async differences(seen, before, after, { database }) {
    if (seen.version < before.version || seen.version > after.version) return ["version"];
    if (seen.version === after.version) return unequal(seen, after, ["available", "total"]);
    const total = before.total === after.total ? unequal(seen, after, ["total"]) : [];
    const [logged] = await database.query<Pick<EventRow, "available">>(LOGGED_EVENT, [seen.id, seen.version]);
    return logged === undefined || logged.available === seen.available ? total : [...total, "available"];
  },
};

class Comparing {
  readonly #views: Database;
  readonly #shards: readonly Shard[];
  readonly #options: CompareOptions;
  readonly #violations: Violation[] = [];
  /** Rows shown of each rule. */
  readonly #shown = new Map<string, number>();
  /** The read side does not get there. */
  readonly #behind = new Set<Shard>();

  constructor(views: Database, shards: readonly Shard[], options: CompareOptions) {
    this.#views = views;
    this.#shards = shards;
    this.#options = options;
  }

  async run(): Promise<Comparison> {
    await this.#expectWhole();
    await this.#compare(EVENT_KIND);
    const bookings = await this.#compare(BOOKING_KIND, this.#options.progress);
    for (const statement of COUNTS) {
      const rows = await this.#views.query<Record<string, unknown>>(statement, [ROWS_MAX]);
      for (const row of rows) this.#name(statement.name, "read-side", row);
    }
    return { bookings, violations: this.#violations };
  }

  async #expectWhole(): Promise<void> {
    const [found] = await this.#views
      .query<{ version: number; whole: string[] }>(VIEWS_FOUND)
      .catch((error: DatabaseError) => {
        if (error.sqlState === UNDEFINED_TABLE) return [];
        throw error;
      });
    if (found === undefined) throw new DatabaseError("refused", "the read side has no tables yet");
    if (found.version !== COMPARED_VERSION)
      throw new DatabaseError("refused", `the read side has tables of version ${found.version}`);
    const missing = this.#shards.filter(({ id, slots }) => slots.size > 0 && !found.whole.includes(id));
    if (missing.length > 0)
      throw new DatabaseError(
        "refused",
        `the read side has not copied ${missing.map(({ id }) => id).join(", ")} yet`,
      );
  }

  /** Returns how many rows the read side has. */
  async #compare<Row extends Key>(
    kind: Kind<Row>,
    progress: (rows: number) => void = () => undefined,
  ): Promise<number> {
    let count = 0;
    for await (const page of this.#pagesOf(kind)) {
      for (const shard of this.#shards) {
        const rows = page.filter((row) => shard.slots.has(kind.slotOf(row)));
        const known = await this.#inShard(kind, shard, rows);
        const suspects = [];
        for (const row of rows) {
          const own = known.get(row.id);
          if (own === undefined || (await kind.differences(row, own, own, shard)).length > 0)
            suspects.push(row);
        }
        await this.#judge(kind, shard, suspects);
      }
      count += page.length;
      progress(count);
    }
    for (const shard of this.#shards) {
      for await (const keys of this.#keysOf(kind, shard)) {
        const seen = await this.#inViews(kind, keys);
        await this.#judge(
          kind,
          shard,
          keys.filter((key) => !seen.has(keyText(key))),
        );
      }
    }
    return count;
  }

  /** Names those of them that differ whatever has happened meanwhile. */
  async #judge<Row extends Key>(kind: Kind<Row>, shard: Shard, suspects: readonly Key[]): Promise<void> {
    if (suspects.length === 0) return;
    const before = await this.#inShard(kind, shard, suspects);
    if (!(await this.#arrived(shard))) return;
    const seen = await this.#inViews(kind, suspects);
    const after = await this.#inShard(kind, shard, suspects);
    for (const key of suspects) {
      const { id } = key;
      const [first, view, last] = [before.get(id), seen.get(keyText(key)), after.get(id)];
      if (view === undefined) {
        if (first !== undefined && keyText(first) === keyText(key)) this.#name(kind.missing, shard.id, first);
      } else if (last === undefined) this.#name(kind.surplus, shard.id, view);
      else {
        const fields = await kind.differences(view, first ?? last, last, shard);
        if (fields.length === 0) continue;
        const pick = (row: Row) => Object.fromEntries(fields.map((field) => [field, row[field]]));
        this.#name(kind.other, shard.id, { id, shard: pick(last), readSide: pick(view) });
      }
    }
  }

  /** Resolves once the read side has what the shard has now; false when it does not get there in time. */
  async #arrived(shard: Shard): Promise<boolean> {
    if (this.#behind.has(shard)) return false;
    const { arrivalWaitMs = ARRIVAL_WAIT_MAX_MS } = this.#options;
    const [newest] = await shard.database.query<{ position: number }>(NEWEST_POSITION);
    for (const until = performance.now() + arrivalWaitMs; ;) {
      const [seen] = await this.#views.query<{ position: number }>(VIEWS_POSITION, [shard.id]);
      if (newest === undefined || (seen !== undefined && seen.position >= newest.position)) return true;
      if (performance.now() >= until) {
        this.#behind.add(shard);
        const row = { position: seen?.position ?? null, newest: newest.position };
        this.#name("V1 the read side gets what its shard has", shard.id, row);
        return false;
      }
      await sleep(ARRIVAL_LOOK_MS);
    }
  }

  async *#pagesOf<Row extends Key>(kind: Kind<Row>): AsyncGenerator<readonly Row[]> {
    for (let last: Row | undefined; ;) {
      const page: Row[] = await this.#views.query<Row>(kind.viewsPage, kind.viewsAfter(last));
      last = page.at(-1);
      if (last === undefined) return;
      yield page;
    }
  }

  async *#keysOf<Row extends Key>(kind: Kind<Row>, { database }: Shard): AsyncGenerator<readonly Key[]> {
    for (let last: Key | undefined; ;) {
      const page: Key[] = await database.query(kind.shardPage, [last?.id ?? FIRST_ID]);
      last = page.at(-1);
      if (last === undefined) return;
      yield page;
    }
  }

  async #inShard<Row extends Key>(
    { shard: statement }: Kind<Row>,
    { database }: Shard,
    keys: readonly Key[],
  ): Promise<ReadonlyMap<string, Row>> {
    const rows = await database.query<Row>(statement, [keys.map((key) => key.id)]);
    return new Map(rows.map((row) => [row.id, row]));
  }

  async #inViews<Row extends Key>(
    { views: statement, viewsKeys }: Kind<Row>,
    keys: readonly Key[],
  ): Promise<ReadonlyMap<string, Row>> {
    const rows = await this.#views.query<Row>(statement, viewsKeys(keys));
    return new Map(rows.map((row) => [keyText(row), row]));
  }

  #name(rule: string, shard: string, row: object): void {
    const shown = this.#shown.get(rule) ?? 0;
    if (shown >= ROWS_MAX) return;
    this.#shown.set(rule, shown + 1);
    this.#violations.push({ rule, shard, row: { ...row } });
  }
}

function unequal<Row>(one: Row, other: Row, fields: readonly (keyof Row)[]): (keyof Row)[] {
  const plain = (value: unknown): unknown => (value instanceof Date ? value.getTime() : value);
  return fields.filter((field) => plain(one[field]) !== plain(other[field]));
}
