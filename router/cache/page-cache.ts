/**
 * Pages of the list of events, in the router's memory for less than a second. Anybody may list, and a list asks every shard,
 * so strangers who list must not cost a shard more than one load of a page at a time (C8).
 *
 * Whoever has created or changed an event through this router sees it in the next list (C1): a page that was loaded before
 * an event was created here is not used any more, and the versions in a page give way to newer ones in `EventCache`. A page
 * from before the newest version that `EventCache` has forgotten is not used either.
 */
import { LRUCache } from "lru-cache";
import type { Event } from "../../shared/domain/events.ts";
import type { EventId } from "../../shared/domain/ids.ts";
import type { Failure } from "../../shared/domain/outcomes.ts";
import type { Clock } from "../../shared/process/clock.ts";
import type { Span } from "../../shared/watch/tracing.ts";
import { NEVER } from "./cached-event.ts";
import { PRIMARY_ONLY } from "./event-cache.ts";

/** How long memory answers. Together with a load this stays below the promised second. */
const PAGE_FRESH_MS = 800;
const PAGES_MAX = 100;

/** Events of all shards, newest first. They hold everything that was committed before `asOf`, by `elapsed()`. */
export interface Page {
  readonly events: readonly Event[];
  readonly asOf: number;
}

export interface PageCacheOptions {
  readonly clock: Clock;
  /** Nothing that memory learned of events later than this was evicted, by `elapsed()`. */
  readonly forgottenUntil: () => number;
  /** A replica may answer if it has everything that was committed before `notBefore`, by `elapsed()`. */
  readonly load: (
    before: EventId | null,
    limit: number,
    notBefore: number,
    span?: Span,
  ) => Promise<Page | Failure>;
  readonly counted: (result: "hit" | "miss") => void;
}

export class PageCache {
  readonly #options: PageCacheOptions;
  readonly #pages = new LRUCache<string, Page>({ max: PAGES_MAX });
  readonly #loads = new Map<string, Promise<Page | Failure>>();
  #createdAt = NEVER;

  constructor(options: PageCacheOptions) {
    this.#options = options;
  }

  /** An event was created through this router: from now on every page shows it. */
  created(): void {
    this.#createdAt = this.#options.clock.elapsed();
  }

  /** At most `limit` events older than `before`; a promise only when memory cannot answer. `span` is the trace of a new load. */
  read(before: EventId | null, limit: number, span?: Span): Page | Promise<Page | Failure> {
    const key = `${limit} ${before ?? ""}`;
    const now = this.#options.clock.elapsed();
    const page = this.#pages.get(key);
    const isHit =
      page !== undefined && now - page.asOf < PAGE_FRESH_MS && this.#shows(page, now, this.#createdAt);
    this.#options.counted(isHit ? "hit" : "miss");
    return isHit ? page : this.#load(key, before, limit, span);
  }

  /** Whether the page holds what was created here by `createdAt`, and all that memory knew at `since` and has forgotten. */
  #shows({ asOf }: Page, since: number, createdAt: number): boolean {
    return asOf >= createdAt && asOf >= Math.min(since, this.#options.forgottenUntil());
  }

  async #load(key: string, before: EventId | null, limit: number, span?: Span): Promise<Page | Failure> {
    const [since, createdAt] = [this.#options.clock.elapsed(), this.#createdAt];
    let notBefore = Math.max(createdAt, this.#options.forgottenUntil());
    for (;;) {
      // A load that began too early, or that a replica answered, may show too little. Then one more is shared by all who wait.
      const page = await (this.#loads.get(key) ?? this.#started(key, before, limit, notBefore, span));
      if (!("events" in page) || this.#shows(page, since, createdAt)) return page;
      notBefore = PRIMARY_ONLY;
    }
  }

  #started(
    key: string,
    before: EventId | null,
    limit: number,
    notBefore: number,
    span?: Span,
  ): Promise<Page | Failure> {
    const load = this.#options
      .load(before, limit, notBefore, span)
      .then((page) => {
        if ("events" in page) this.#pages.set(key, page);
        return page;
      })
      .finally(() => this.#loads.delete(key));
    this.#loads.set(key, load);
    return load;
  }
}
