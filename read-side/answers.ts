/** Answers what routers ask, or says that it cannot: then the answer would be too old, or the database does not give it in time. */
import { Readable } from "node:stream";
import { type Database, DatabaseError } from "../shared/database/database.ts";
import type { Booking } from "../shared/domain/bookings.ts";
import { invariant } from "../shared/domain/invariant.ts";
import type { ShardId } from "../shared/domain/ids.ts";
import {
  type BookingsPage,
  type CsvRequest,
  type EventBookingsRequest,
  type ReadSideUnavailable,
  type StatisticsAnswer,
  type StatisticsRequest,
  type UserBookingsRequest,
} from "../shared/wire/read-side.ts";
import type { Arrivals } from "./follow/arrivals.ts";
import { asOfAll, bookingsOfEvent, bookingsOfUser, type Head, statisticsOf } from "./views/questions.ts";
import { isMissing } from "./views/tables.ts";

/** Rows of an export that are in memory at once. */
const EXPORT_PAGE_MAX = 1_000;

export const ANSWER_SHED = ["pool_busy", "waiters_full", "exports_full", "export_too_long"] as const;
export type AnswerShed = (typeof ANSWER_SHED)[number];

export interface AnswersParts {
  readonly lists: Database;
  readonly reports: Database;
  readonly exports: Database;
  readonly arrivals: Arrivals;
  /** The shards that an answer must have; none while no map is known. */
  readonly shards: () => Iterable<ShardId>;
  readonly lagMaxMs: number;
  readonly exportsMax: number;
  readonly exportMaxMs: number;
  readonly shed: (reason: AnswerShed) => void;
  /** A failure of the database; the questions it concerns are answered with 503. */
  readonly failed: (error: unknown) => void;
  readonly worked: () => void;
}

const UNAVAILABLE: ReadSideUnavailable = { outcome: "read_side_unavailable" };

/** An export, as it is written: `asOf` is that of its first page. It keeps its place until it is closed. */
export interface Export {
  readonly outcome: "csv";
  readonly asOf: string;
  readonly content: Readable;
}

export class Answers {
  readonly #parts: AnswersParts;
  #exports = 0;

  constructor(parts: AnswersParts) {
    this.#parts = parts;
  }

  /** Exports under way. */
  get exports(): number {
    return this.#exports;
  }

  async userBookings(request: UserBookingsRequest): Promise<BookingsPage | ReadSideUnavailable> {
    const { lists, arrivals, shed } = this.#parts;
    const { userId, position: wanted, waitMs } = request;
    if (wanted !== null && !(await arrivals.wait(wanted.shard, wanted.position, waitMs)))
      shed("waiters_full");
    return this.#answered(async () => {
      const { head, items } = await bookingsOfUser(lists, userId, request);
      return this.#page(head, items, wanted === null || hasPosition(head, wanted));
    });
  }

  async eventBookings(request: EventBookingsRequest): Promise<BookingsPage | ReadSideUnavailable> {
    return this.#answered(async () => {
      const { head, items } = await bookingsOfEvent(this.#parts.reports, request.eventId, request);
      return this.#page(head, items, true);
    });
  }

  async statistics({ eventId }: StatisticsRequest): Promise<StatisticsAnswer> {
    return this.#answered(async (): Promise<StatisticsAnswer> => {
      const { head, statistics } = await statisticsOf(this.#parts.reports, eventId);
      const asOf = this.#asOf(head);
      if (asOf === undefined) return UNAVAILABLE;
      return statistics === undefined
        ? { outcome: "absent", asOf }
        : { outcome: "statistics", statistics, asOf };
    });
  }

  /** All bookings of an event, newest first: those that were there when it began. */
  async csv(request: CsvRequest): Promise<Export | ReadSideUnavailable> {
    const { exportsMax, exportMaxMs, shed } = this.#parts;
    if (this.#exports >= exportsMax) {
      shed("exports_full");
      return UNAVAILABLE;
    }
    this.#exports += 1;
    const page = await this.#exportPage(request, null);
    if (page === undefined) {
      this.#exports -= 1;
      return UNAVAILABLE;
    }
    const pages = this.#pagesFrom(request, page.items, performance.now() + exportMaxMs);
    // One page is read ahead of the client.
    const content = Readable.from(pages, { highWaterMark: 1 });
    content.once("close", () => (this.#exports -= 1));
    return { outcome: "csv", asOf: page.asOf, content };
  }

  async *#pagesFrom(request: CsvRequest, first: readonly Booking[], until: number): AsyncGenerator<string> {
    yield CSV_HEADER + csvOf(first, request);
    for (let items = first; items.length === EXPORT_PAGE_MAX;) {
      if (performance.now() > until) {
        this.#parts.shed("export_too_long");
        throw new Error("the export took too long");
      }
      const page = await this.#exportPage(request, items.at(-1)?.id ?? null);
      // An export that ends early must not look like a whole one.
      if (page === undefined) throw new Error("the export cannot be continued");
      items = page.items;
      yield csvOf(items, request);
    }
  }

  /** Of all statuses: to look for few rows among a million would take longer than a statement may. */
  async #exportPage({ eventId }: CsvRequest, before: Booking["id"] | null) {
    const page = await this.#answered(async () => {
      const all = { before, limit: EXPORT_PAGE_MAX, status: null };
      const { head, items } = await bookingsOfEvent(this.#parts.exports, eventId, all);
      return this.#page(head, items, true);
    });
    return page.outcome === "page" ? page : undefined;
  }

  #page(head: Head, items: readonly Booking[], has: boolean): BookingsPage | ReadSideUnavailable {
    const asOf = this.#asOf(head);
    return asOf === undefined ? UNAVAILABLE : { outcome: "page", items, asOf, hasPosition: has };
  }

  /** Undefined when that is too long ago, or cannot be said. */
  #asOf(head: Head): string | undefined {
    const { shards, lagMaxMs } = this.#parts;
    const asOf = asOfAll(head, shards());
    if (asOf === undefined || head.now.getTime() - asOf > lagMaxMs) return undefined;
    return new Date(asOf).toISOString();
  }

  async #answered<Answer>(ask: () => Promise<Answer>): Promise<Answer | ReadSideUnavailable> {
    try {
      const answer = await ask();
      this.#parts.worked();
      return answer;
    } catch (error) {
      invariant(error instanceof DatabaseError, "only the database fails", { error: String(error) });
      if (error.kind === "busy") this.#parts.shed("pool_busy");
      else if (!isMissing(error)) this.#parts.failed(error);
      return UNAVAILABLE;
    }
  }
}

function hasPosition({ positions }: Head, wanted: { shard: ShardId; position: number }): boolean {
  const { copied, position = -1 } = positions[wanted.shard] ?? {};
  return copied === null && position >= wanted.position;
}

const CSV_HEADER = csvLine(["id", "userId", "quantity", "status", "createdAt", "updatedAt"]);

function csvOf(items: readonly Booking[], { status: wanted }: CsvRequest): string {
  return items
    .filter(({ status }) => wanted === null || status === wanted)
    .map(({ id, userId, quantity, status, createdAt, updatedAt }) =>
      csvLine([id, userId, String(quantity), status, createdAt, updatedAt]),
    )
    .join("");
}

/** A record of RFC 4180. */
function csvLine(fields: readonly string[]): string {
  return `${fields.map((field) => (/[",\r\n]/.test(field) ? `"${field.replaceAll('"', '""')}"` : field)).join(",")}\r\n`;
}
