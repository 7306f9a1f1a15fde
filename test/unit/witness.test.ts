import { appendFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { check, type Facts, type Row } from "../faults/witness/check.ts";
import { type Answer, type Entry, readLog, type Sent, WitnessLog } from "../faults/witness/log.ts";

type Request = NonNullable<Answer["request"]>;

const EVENT = "event";
const row = (id: string, fields: Partial<Row> = {}): Row => ({
  id,
  eventId: EVENT,
  userId: `user-${id}`,
  quantity: 1,
  status: "confirmed",
  key: `key-${id}`,
  ...fields,
});

/** A request and its answer, one after the other in time; the requests of a story have rising ids. */
function exchange(id: number, sent: Partial<Sent>, answer: Partial<Answer> | undefined): Entry[] {
  const at = id * 1_000;
  const request: Sent = { type: "sent", id, at, router: 0, operation: "book", event: EVENT, ...sent };
  return answer === undefined
    ? [request]
    : [request, { type: "answer", id, at: at + 10, status: 201, ...answer }];
}
const booking = (id: number, name: string, answer: Partial<Answer> = { booking: row(name) }) =>
  exchange(id, { user: `user-${name}`, quantity: 1, key: `key-${name}` }, answer);
const read = (id: number, version: number, sent: Partial<Sent> = {}) =>
  exchange(
    id,
    { operation: "read", ...sent },
    { status: 200, event: { id: EVENT, version, availableTickets: 0 } },
  );
/** A booking whose client prefers not to wait, and what its receipt says. */
const accepted = (id: number, name: string): Entry[] =>
  exchange(
    id,
    { user: `user-${name}`, quantity: 1, key: `key-${name}`, async: true },
    { status: 202, request: request(name, { status: "queued" }) },
  );
const follow = (id: number, name: string, said: Partial<Request> | undefined): Entry[] =>
  exchange(
    id,
    { operation: "follow", user: `user-${name}`, receipt: `receipt-${name}` },
    said === undefined
      ? { status: 404, code: "booking_request_not_found" }
      : { status: 200, request: request(name, said) },
  );
const request = (name: string, said: Partial<Request>): Request => ({
  receipt: `receipt-${name}`,
  bookingId: name,
  eventId: EVENT,
  quantity: 1,
  status: "decided",
  ...said,
});
const LAPSED = { status: "lapsed" } as const;
const LOST = { status: null, code: "the connection broke" };
const UNKNOWN = { status: 503, code: "outcome_unknown" };
const SOLD_OUT = { status: 409, code: "sold_out" };

/** Everything that can happen to a request, and what an honest cluster has afterwards. */
const STORY: readonly Entry[] = [
  { type: "event", id: EVENT, label: "all", totalTickets: 10, maxPerUser: 2 },
  ...read(1, 1),
  ...booking(2, "booked"),
  ...read(3, 2),
  ...booking(4, "again", UNKNOWN),
  ...booking(5, "again"),
  ...booking(6, "refused", SOLD_OUT),
  ...booking(7, "unknown", LOST),
  ...exchange(8, { user: "user-unanswered", quantity: 1, key: "key-unanswered" }, undefined),
  ...exchange(
    9,
    { operation: "hold", user: "user-held", quantity: 1, key: "key-held" },
    { booking: row("held") },
  ),
  ...exchange(
    10,
    { operation: "cancel", user: "user-held", booking: "held" },
    { status: 200, booking: row("held", { status: "cancelled" }) },
  ),
  ...exchange(11, { user: "user-keyless", quantity: 2 }, LOST),
  ...read(12, 6, { router: 1 }),
  ...read(13, 7),
  ...accepted(20, "queued"),
  ...follow(21, "queued", { status: "queued" }),
  ...follow(22, "queued", { booking: row("queued", { status: "held" }) }),
  ...follow(23, "queued", { booking: row("queued") }),
  ...accepted(24, "queued-in-vain"),
  ...follow(25, "queued-in-vain", { problem: { code: "sold_out" } }),
  ...accepted(26, "lapsed"),
  ...follow(27, "lapsed", LAPSED),
  ...follow(28, "lapsed", LAPSED),
  ...booking(40, "refused-later", UNKNOWN),
  ...booking(55, "refused-later", SOLD_OUT),
];
const FACTS: Facts = {
  complete: true,
  rows: [
    row("booked"),
    row("again"),
    row("unknown"),
    row("held", { status: "cancelled" }),
    row("keyless", { quantity: 2 }),
    row("queued"),
  ],
  events: new Map([[EVENT, { version: 7, availableTickets: 4 }]]),
};
const PROMISES = { staleMs: 1_000, oneRouterEach: true };

const without = (id: string) => FACTS.rows.filter((each) => each.id !== id);
const withRow = (changed: Row) => [...without(changed.id), changed];
const left = (availableTickets: number, version = 7) => new Map([[EVENT, { version, availableTickets }]]);

test("H4: the witness says nothing of an honest cluster, with the databases or with the API alone", () => {
  expect(check(STORY, FACTS, PROMISES)).toEqual([]);
  const known = FACTS.rows.filter(({ id }) => ["booked", "again", "held", "queued"].includes(id));
  const seen = known.map((each) => ({ ...each, key: null }));
  expect(check(STORY, { ...FACTS, complete: false, rows: seen }, PROMISES)).toEqual([]);
});

test.for<[lie: string, promise: string, facts: Partial<Facts>, more?: Entry[]]>([
  ["a row is gone", "kept", { rows: without("booked"), events: left(5) }],
  ["a row is there twice", "kept", { rows: [...FACTS.rows, row("booked")], events: left(3) }],
  ["a quantity is another", "kept", { rows: withRow(row("booked", { quantity: 2 })), events: left(3) }],
  [
    "an answer says another quantity",
    "kept",
    {},
    booking(60, "booked", { booking: row("booked", { quantity: 2 }) }),
  ],
  ["a booking is another user's", "kept", { rows: withRow(row("booked", { userId: "user-b" })) }],
  [
    "a booking is cancelled, and nobody did that",
    "kept",
    { rows: withRow(row("again", { status: "cancelled" })), events: left(5) },
  ],
  ["a cancelled booking is back", "kept", { rows: withRow(row("held")), events: left(3) }],
  ["an event is gone", "kept", { events: new Map() }],
  [
    "a booking is not found by its owner",
    "kept",
    {},
    exchange(60, { operation: "show", user: "user-booked", booking: "booked" }, { status: 404 }),
  ],
  ["a refusal left a row", "refused", { rows: [...FACTS.rows, row("refused")], events: left(3) }],
  ["a late refusal left a row", "refused", { rows: [...FACTS.rows, row("refused-later")], events: left(3) }],
  [
    "an unanswered one left two rows",
    "once",
    { rows: [...FACTS.rows, row("twin", { userId: "user-unknown", key: "key-unknown" })], events: left(3) },
  ],
  [
    "a retry got another booking",
    "once",
    { rows: [...FACTS.rows, row("other", { userId: "user-again", key: "key-again" })], events: left(3) },
    booking(60, "again", { booking: row("other") }),
  ],
  ["a booking that a receipt named is gone", "kept", { rows: without("queued"), events: left(5) }],
  ["a lapsed request left a row", "receipt", { rows: [...FACTS.rows, row("lapsed")], events: left(3) }],
  [
    "a refused request left a row",
    "receipt",
    { rows: [...FACTS.rows, row("queued-in-vain")], events: left(3) },
  ],
  [
    "a lapsed request is decided after all",
    "receipt",
    { rows: [...FACTS.rows, row("lapsed")], events: left(3) },
    follow(60, "lapsed", { booking: row("lapsed") }),
  ],
  ["a refusal becomes another", "receipt", {}, follow(60, "queued-in-vain", { problem: { code: "no" } })],
  ["a booking becomes another", "receipt", {}, follow(60, "queued", { booking: row("again") })],
  ["a decided request waits again", "receipt", {}, follow(60, "queued", { status: "queued" })],
  ["a receipt is not found", "receipt", {}, follow(60, "queued", undefined)],
  ["a receipt says another quantity", "receipt", {}, follow(60, "lapsed", { ...LAPSED, quantity: 2 })],
  ["nothing becomes of a request", "receipt", {}, accepted(60, "forgotten")],
  ["a row that nobody asked for", "asked", { rows: [...FACTS.rows, row("stranger")], events: left(3) }],
  [
    "a request without a key left two rows",
    "asked",
    { rows: [...FACTS.rows, row("twin", { userId: "user-keyless", quantity: 2 })], events: left(2) },
  ],
  [
    "a user above the limit",
    "limit",
    { rows: [...FACTS.rows, row("more", { userId: "user-keyless" })], events: left(3) },
    exchange(60, { user: "user-keyless", quantity: 1, key: "key-more" }, LOST),
  ],
  ["a ticket vanished", "conserved", { events: left(3) }],
  ["a ticket came back", "conserved", { events: left(5) }],
  ["more was read than there is", "forward", { events: left(4, 6) }],
  ["a version went back", "forward", {}, read(13.5, 6)],
  [
    "a router forgot its own write",
    "forward",
    {},
    [...booking(60, "new", { booking: row("new") }), ...read(60.5, 7)],
  ],
  ["a read is older than promised", "fresh", {}, read(15, 6, { router: 1 })],
] as const)("H4: the witness finds a planted lie: %s", ([, promise, facts, more = []]) => {
  const found = check([...STORY, ...more].toSorted(inTime), { ...FACTS, ...facts }, PROMISES);

  expect(found.map((problem) => problem.promise)).toContain(promise);
});

function inTime(a: Entry, b: Entry): number {
  const timeOf = (entry: Entry) => ("at" in entry ? entry.at : 0);
  return timeOf(a) - timeOf(b);
}

test("H4: behind a balancer, and after a lost answer, only the promised second counts", () => {
  const back = [...STORY, ...read(13.5, 6)].toSorted(inTime);
  const oneSecond = { staleMs: 1_000, oneRouterEach: false };
  expect(check(back, FACTS, oneSecond)).toEqual([]);
  const restarted = [...STORY, ...booking(13.2, "gone", LOST), ...read(13.5, 6)].toSorted(inTime);
  expect(check(restarted, FACTS, PROMISES)).toEqual([]);
});

test("H4: the log gives back what was written, without a line that was cut off, and says when it is full", () => {
  const directory = mkdtempSync(join(tmpdir(), "onsale-witness-"));
  try {
    const entries = [...read(1, 1), ...booking(2, "lost", LOST), ...booking(3, "refused", SOLD_OUT)];
    const log = new WitnessLog(join(directory, "log"), entries.length + 1);
    for (const entry of entries) log.write(entry);
    appendFileSync(log.file, '{"type":"sent","id":4,');
    expect([log.isFull, readLog(log.file)]).toEqual([false, entries]);
    log.write({ type: "answer", id: 4, at: 0, status: null });
    log.close();
    expect(log.isFull).toBe(true);
  } finally {
    rmSync(directory, { recursive: true });
  }
});
