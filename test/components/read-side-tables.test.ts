/** The read side's tables: what is written into them counts once, and they are exchanged as a whole. */
import { randomUUID } from "node:crypto";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import {
  exchange,
  findTables,
  freeze,
  lockRebuild,
  makeNext,
  type ShardPosition,
  thaw,
  unfreeze,
  VIEWS_VERSION,
} from "../../read-side/views/tables.ts";
import { readConfig } from "../../shared/process/config.ts";
import { rebuildConfig } from "../../read-side/config.ts";
import { writingDatabase } from "../../read-side/databases.ts";
import { type Rows, rowsOf, rowsOfPage, Writer } from "../../read-side/views/writing.ts";
import type { Connection } from "../../shared/database/connection.ts";
import { type Database, DatabaseError } from "../../shared/database/database.ts";
import type { Booking } from "../../shared/domain/bookings.ts";
import type { Change } from "../../shared/domain/changes.ts";
import type { BookingId, EventId, ShardId, UserId } from "../../shared/domain/ids.ts";
import { connectTo, createEmptyDatabase, openDatabase, type TestDatabase } from "../support/databases.ts";

const SHARD = "shard-0" as ShardId;
const AS_OF = "2031-01-01T12:00:00.000Z";
const NOTHING: Rows = rowsOf([]);

let created: TestDatabase;
let database: Database;
let session: Connection;
beforeAll(async () => {
  created = await createEmptyDatabase();
  database = openDatabase(created.url);
  session = connectTo(created.url);
});
afterAll(async () => {
  session.close();
  await database.close();
  await created[Symbol.asyncDispose]();
});

/** What a booking goes through: the minute of each status. */
type History = readonly { readonly status: Booking["status"]; readonly minute: number }[];

const histories: fc.Arbitrary<History> = fc
  .tuple(
    fc.constantFrom<Booking["status"][]>(
      ["confirmed"],
      ["confirmed", "cancelled"],
      ["held"],
      ["held", "confirmed"],
      ["held", "confirmed", "cancelled"],
      ["held", "expired"],
      ["held", "expired", "confirmed"],
      ["held", "expired", "confirmed", "cancelled"],
      ["held", "expired", "cancelled"],
      ["held", "cancelled"],
    ),
    fc.array(fc.nat(5), { minLength: 4, maxLength: 4 }),
  )
  .map(([statuses, pauses]) => {
    let minute = 0;
    return statuses.map((status, index) => ({ status, minute: (minute += pauses[index] ?? 0) }));
  });

const stories = fc.record({
  bookings: fc.array(
    fc.record({
      history: histories,
      event: fc.nat(1),
      user: fc.nat(2),
      quantity: fc.integer({ min: 1, max: 5 }),
    }),
    { minLength: 1, maxLength: 12 },
  ),
  /** In which order the bookings take their steps. */
  order: fc.array(fc.nat(11), { minLength: 60, maxLength: 60 }),
  /** How long the log is when the copy begins, and by how much it has grown at each page. */
  begin: fc.nat(30),
  pages: fc.array(fc.record({ rows: fc.integer({ min: 1, max: 4 }), grown: fc.nat(4) }), {
    minLength: 12,
    maxLength: 12,
  }),
  /** Steps in a change, and changes that come together. */
  sizes: fc.array(
    fc.record({ steps: fc.integer({ min: 1, max: 4 }), changes: fc.integer({ min: 1, max: 3 }) }),
    {
      minLength: 50,
      maxLength: 50,
    },
  ),
});

test("V8: no answer and no write waits until PostgreSQL has compiled its statement", async () => {
  await using other = await createEmptyDatabase();
  await database.query(
    { name: "jit-on", text: `alter database ${new URL(other.url).pathname.slice(1)} set jit = on` },
    [],
  );
  const settings = { DATABASE_URL: other.url, NODE_URLS: "http://127.0.0.1", INTERNAL_TOKEN: "-".repeat(32) };
  const writing = writingDatabase(readConfig(rebuildConfig, settings));
  try {
    expect(await writing.query({ name: "jit", text: "show jit" }, [])).toEqual([{ jit: "off" }]);
  } finally {
    await writing.close();
  }
});

test("V1: whoever dies between two statements has moved the position and written the rows, or neither", async () => {
  const booking: Booking = {
    id: idOf(1),
    eventId: idOf(1001),
    userId: "ada" as UserId,
    quantity: 2,
    status: "confirmed",
    expiresAt: null,
    createdAt: timeOf(0),
    updatedAt: timeOf(0),
  };
  const rows = rowsOf([{ position: 2, at: timeOf(0), events: [], event: null, bookings: [booking] }]);
  const [from, to] = [1, 2].map((position): ShardPosition => ({
    position,
    copied: "bookings:",
    asOf: null,
  })) as [ShardPosition, ShardPosition];
  for (let statements = 0; statements < 3; statements += 1) {
    const build = randomUUID();
    await fresh(build);
    const next = new Writer(database, "views", build);
    await next.begin(SHARD, from.position, "bookings:");
    let left = statements;
    const query = async (...statement: Parameters<Database["query"]>): Promise<never[]> => {
      if (left === 0) throw new DatabaseError("lost", "the process has died");
      left -= 1;
      return database.query(...statement);
    };
    await new Writer({ query } as Pick<Database, "query">, "views", build)
      .write(SHARD, from, to, rows)
      .catch(() => false);

    // The next process goes on from where the tables are.
    const isBefore = (await findTables(database))?.positions[SHARD]?.position === from.position;
    const isWritten = isBefore ? await next.write(SHARD, from, to, rows) : true;

    const counted =
      "select confirmed::integer, (select count(*)::integer from views.bookings) as bookings from views.sales";
    expect([statements, isWritten, await session.run(counted)]).toEqual([
      statements,
      true,
      [{ confirmed: 2, bookings: 1 }],
    ]);
  }
});

test("V1 V10: however copy and log overlap, each booking counts as what became of it", async () => {
  await fc.assert(
    fc.asyncProperty(stories, async ({ bookings, order, begin, pages, sizes }) => {
      const build = randomUUID();
      await fresh(build);
      const writer = new Writer(database, "views", build);
      const events = [1, 2].map((number) => idOf<EventId>(1000 + number));
      const whole = bookings.map(({ history, event, user, quantity }, index) => ({
        history,
        id: idOf<BookingId>(index + 1),
        eventId: events[event] as EventId,
        userId: `user ${user}` as UserId,
        quantity,
      }));
      // The log: one step of one booking after the other.
      const taken = whole.map(() => 0);
      const log: { of: number; step: number }[] = [];
      for (const wanted of [...order, ...Array.from({ length: 60 }, (_, at) => at)]) {
        const of = wanted % whole.length;
        const step = taken[of] ?? 0;
        if (step >= (whole[of]?.history.length ?? 0)) continue;
        log.push({ of, step });
        taken[of] = step + 1;
      }
      const bookingAt = (of: number, step: number): Booking => {
        const { history, ...booking } = whole[of] as (typeof whole)[number];
        const { status, minute } = history[step] as History[number];
        return {
          ...booking,
          status,
          expiresAt: status === "held" || status === "expired" ? timeOf(99) : null,
          createdAt: timeOf(history[0]?.minute ?? 0),
          updatedAt: timeOf(minute),
        };
      };

      // The copy: pages in the order of ids, each of the moment in which it is read.
      let now = Math.min(begin, log.length);
      let at: ShardPosition = { position: now, copied: "bookings:", asOf: null };
      await writer.begin(SHARD, now, "bookings:");
      const move = async (to: ShardPosition, rows: Rows): Promise<void> => {
        expect(await writer.write(SHARD, at, to, rows)).toBe(true);
        // Whoever comes second writes nothing.
        expect(await writer.write(SHARD, at, to, rows)).toBe(false);
        at = to;
      };
      let copied = 0;
      for (let page = 0; copied < whole.length; page += 1) {
        const { rows, grown } = pages[page % pages.length] as (typeof pages)[number];
        now = Math.min(now + grown, log.length);
        const last = new Map(log.slice(0, now).map(({ of, step }) => [of, step]));
        const items = [];
        for (let of = copied; of < Math.min(copied + rows, whole.length); of += 1) {
          const step = last.get(of);
          if (step === undefined) continue;
          const confirmed = (whole[of]?.history ?? [])
            .slice(0, step + 1)
            .find(({ status }) => status === "confirmed");
          items.push({ ...bookingAt(of, step), confirmedAt: confirmed ? timeOf(confirmed.minute) : null });
        }
        copied = Math.min(copied + rows, whole.length);
        const isLast = copied === whole.length;
        const to = { ...at, copied: isLast ? null : `bookings:${copied}` };
        await move(to, rowsOfPage({ outcome: "copied", events: [], bookings: items, next: null }));
      }
      // The log from where the copy began.
      for (let turn = 0; at.position < log.length; turn += 1) {
        const { steps, changes: count } = sizes[turn % sizes.length] as (typeof sizes)[number];
        const changes: Change[] = [];
        let position = at.position;
        for (let index = 0; index < count && position < log.length; index += 1) {
          // Within a change, each booking is there once.
          const became = new Map<number, number>();
          for (const { of, step } of log.slice(position, position + steps)) {
            if (became.has(of)) break;
            became.set(of, step);
          }
          position += became.size;
          const changed = [...became].map(([of, step]) => bookingAt(of, step));
          changes.push({ position, at: timeOf(0), events: [], event: null, bookings: changed });
        }
        await move({ position, copied: null, asOf: AS_OF }, rowsOf(changes));
      }

      const [counted] = await session.run<{ counted: unknown }>(COUNTED);
      expect(counted?.counted).toEqual(countedOf(whole));
    }),
    { numRuns: 40 },
  );
});

test("V1: of an event the newest version counts, whichever comes first", async () => {
  const build = randomUUID();
  await fresh(build);
  const writer = new Writer(database, "views", build);
  await writer.begin(SHARD, 1, "events:");
  const id = idOf<EventId>(1);
  const at = (position: number): ShardPosition => ({ position, copied: "events:", asOf: null });
  const seen = async () =>
    (await session.run("select version::integer, available, total from views.events"))[0];
  const told = (version: number, available: number, total: number | null = null): Rows => ({
    events: new Map([[id, { version, available, total }]]),
    bookings: new Map(),
  });

  await writer.write(SHARD, at(1), at(2), told(7, 50, 100));
  await writer.write(SHARD, at(2), at(3), told(6, 60, 90));
  expect(await seen()).toEqual({ version: 7, available: 50, total: 100 });
  await writer.write(SHARD, at(3), at(4), told(8, 49));
  expect(await seen()).toEqual({ version: 8, available: 49, total: 100 });
});

test("V4: who writes for tables that were replaced writes nothing", async () => {
  const build = randomUUID();
  await fresh(build);
  const writer = new Writer(database, "views", build);
  await writer.begin(SHARD, 1, "events:");
  const [from, to] = [1, 2].map((position): ShardPosition => ({
    position,
    copied: "events:",
    asOf: null,
  })) as [ShardPosition, ShardPosition];
  await freeze(session);
  expect(await writer.write(SHARD, from, to, NOTHING)).toBe(false);
  await unfreeze(session, build);
  expect(await writer.write(SHARD, from, to, NOTHING)).toBe(true);

  await freeze(session);
  using rebuilder = connectTo(created.url);
  expect(await lockRebuild(rebuilder)).toBe(true);
  await thaw(database);
  expect((await findTables(database))?.build).toBeNull();
  expect(await lockRebuild(session)).toBe(false);
  await rebuilder.run("select pg_advisory_unlock_all()");
  await thaw(database);
  expect((await findTables(database))?.build).not.toBeNull();
  expect(await writer.write(SHARD, to, from, NOTHING)).toBe(false);
});

test("V4: new tables do not take the place of those that are further, nor wait long for who reads", async () => {
  const build = randomUUID();
  await fresh(build);
  await new Writer(database, "views", build).begin(SHARD, 5, "events:");
  const next = randomUUID();
  await makeNext(session, next);
  const writer = new Writer(database, "views_next", next);
  await writer.begin(SHARD, 4, "events:");
  expect(await exchange(session, false)).toBe(false);
  expect((await findTables(database))?.build).toBe(build);

  const [from, to] = [4, 5].map((position): ShardPosition => ({
    position,
    copied: "events:",
    asOf: null,
  })) as [ShardPosition, ShardPosition];
  await writer.write(SHARD, from, to, NOTHING);
  using reader = connectTo(created.url);
  await reader.run("begin");
  await reader.run("select from views.about");
  expect(await exchange(session, false)).toBe(false);
  await reader.run("commit");
  expect(await exchange(session, false)).toBe(true);
  expect(await findTables(database)).toMatchObject({ build: next, version: VIEWS_VERSION });
  expect(await findTables(database, "views_next")).toBeUndefined();
});

async function fresh(build: string): Promise<void> {
  await session.script("drop schema if exists views cascade");
  await makeNext(session, build);
  expect(await exchange(session, true)).toBe(true);
}

const COUNTED = `
  select json_build_object(
    'sales', (select coalesce(json_agg(row_to_json(s) order by s.event_id), '[]') from views.sales s),
    'buyers', (select coalesce(json_agg(json_build_object('event', event_id, 'user', user_id, 'bookings', bookings)
                 order by event_id, user_id), '[]') from views.buyers where bookings > 0),
    'minutes', (select coalesce(json_agg(json_build_object('event', event_id, 'minute', extract(epoch from minute) / 60,
                  'confirmed', confirmed, 'cancelled', cancelled) order by event_id, minute), '[]')
                from views.minutes)) as counted`;

/** The same, from what bookings went through. */
function countedOf(
  bookings: readonly { history: History; eventId: EventId; userId: UserId; quantity: number }[],
) {
  const events = [...new Set(bookings.map(({ eventId }) => eventId))].toSorted();
  const sum = (of: readonly { quantity: number }[]) =>
    of.reduce((total, { quantity }) => total + quantity, 0);
  const last = ({ history }: { history: History }) => history.at(-1)?.status;
  const minuteOf = (history: History, wanted: Booking["status"]) =>
    history.find(({ status }) => status === wanted)?.minute;
  const base = Date.parse(timeOf(0)) / 60_000;
  const sales = [];
  const buyers = [];
  const minutes = [];
  for (const event of events) {
    const of = bookings.filter(({ eventId }) => eventId === event);
    const ended = (status: Booking["status"]) => of.filter((booking) => last(booking) === status);
    const users = [...new Set(ended("confirmed").map(({ userId }) => userId))].toSorted();
    sales.push({
      event_id: event,
      held: sum(ended("held")),
      expired: sum(ended("expired")),
      confirmed: sum(ended("confirmed")),
      cancelled: sum(ended("cancelled")),
      buyers: users.length,
    });
    for (const user of users)
      buyers.push({
        event,
        user,
        bookings: ended("confirmed").filter(({ userId }) => userId === user).length,
      });
    for (let minute = 0; minute <= 20; minute += 1) {
      const confirmed = sum(of.filter(({ history }) => minuteOf(history, "confirmed") === minute));
      const cancelled = sum(of.filter(({ history }) => minuteOf(history, "cancelled") === minute));
      if (confirmed + cancelled > 0) minutes.push({ event, minute: base + minute, confirmed, cancelled });
    }
  }
  return { sales, buyers, minutes };
}

const timeOf = (minute: number): string =>
  new Date(Date.parse("2031-01-01T00:00:00Z") + minute * 60_000).toISOString();
const idOf = <Id extends string>(number: number): Id =>
  `00000000-0000-7000-8000-${String(number).padStart(12, "0")}` as Id;
