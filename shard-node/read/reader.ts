/**
 * Reads of events go to a replica that is fresh enough, else to the primary. A replica is tried once, and only what it
 * finds counts: it may not have the newest events yet (docs/decisions/0011-replica-reads.md).
 */
import type { EventId } from "../../shared/domain/ids.ts";
import { DatabaseError } from "../../shared/database/database.ts";
import type { Span } from "../../shared/watch/tracing.ts";
import type { ListResponse, ReadResult } from "../../shared/wire/rpc.ts";
import type { Snapshot } from "../../shared/domain/events.ts";
import type { BookingStore } from "../store/booking-store.ts";
import type { Replica } from "./replica.ts";

export interface ReaderOptions {
  readonly primary: Pick<BookingStore, "readEvents" | "listEvents">;
  readonly replicas: readonly {
    readonly replica: Pick<Replica, "ageMs" | "doubt">;
    readonly store: Pick<BookingStore, "readEvents" | "listEvents">;
  }[];
  /** How old a replica's answers may be. */
  readonly lagMaxMs: number;
  /** Told which server answered each statement. */
  readonly read: (source: "primary" | "replica") => void;
}

export class Reader {
  readonly #options: ReaderOptions;

  constructor(options: ReaderOptions) {
    this.#options = options;
  }

  /** One result for each id. `maxAgesMs` says how old each may be; without it, only the newest will do. */
  async readEvents(
    ids: readonly EventId[],
    maxAgesMs: readonly number[] = [],
    span?: Span,
  ): Promise<ReadResult<Snapshot>[]> {
    const results = new Map<EventId, ReadResult<Snapshot>>();
    const chosen = this.#choose();
    const { ageMs } = chosen;
    await Promise.all([
      this.#readFromPrimary(
        ids.filter((_, index) => !(ageMs < (maxAgesMs[index] ?? 0))),
        results,
        span,
      ),
      this.#readFromReplica(
        chosen,
        ids.filter((_, index) => ageMs < (maxAgesMs[index] ?? 0)),
        results,
        span,
      ),
    ]);
    await this.#readFromPrimary(
      ids.filter((id) => !results.has(id)),
      results,
      span,
    );
    return ids.map((id) => results.get(id) ?? { outcome: "absent" });
  }

  /** At most `limit` events older than `before`, newest first. */
  async listEvents(before: EventId | null, limit: number, maxAgeMs = 0, span?: Span): Promise<ListResponse> {
    const { ageMs, ask } = this.#choose();
    const list =
      ageMs < maxAgeMs ? await ask(async (store) => store.listEvents(before, limit, span)) : undefined;
    if (list !== undefined) return { events: list, ageMs };
    this.#options.read("primary");
    return { events: await this.#options.primary.listEvents(before, limit, span) };
  }

  /** The first replica within the allowed lag, or a choice of infinite age when there is none. */
  #choose(): Choice {
    const { replicas, lagMaxMs, read } = this.#options;
    const usable = replicas.find(({ replica }) => replica.ageMs <= lagMaxMs);
    if (usable === undefined) return { ageMs: Number.POSITIVE_INFINITY, ask: async () => undefined };
    const { replica, store } = usable;
    return {
      ageMs: replica.ageMs,
      async ask(question) {
        try {
          const answer = await question(store);
          read("replica");
          return answer;
        } catch (error) {
          if (!(error instanceof DatabaseError)) throw error;
          replica.doubt();
          return undefined;
        }
      },
    };
  }

  async #readFromReplica(
    { ageMs, ask }: Choice,
    ids: readonly EventId[],
    results: Map<EventId, ReadResult<Snapshot>>,
    span: Span | undefined,
  ): Promise<void> {
    if (ids.length === 0) return;
    const answers = (await ask(async (store) => store.readEvents(ids, span))) ?? [];
    for (const [index, answer] of answers.entries()) {
      const id = ids[index];
      if (id !== undefined && answer.outcome === "found") results.set(id, { ...answer, ageMs });
    }
  }

  async #readFromPrimary(
    ids: readonly EventId[],
    results: Map<EventId, ReadResult<Snapshot>>,
    span: Span | undefined,
  ): Promise<void> {
    if (ids.length === 0) return;
    this.#options.read("primary");
    const answers = await this.#options.primary.readEvents(ids, span);
    for (const [index, answer] of answers.entries()) {
      const id = ids[index];
      if (id !== undefined) results.set(id, answer);
    }
  }
}

interface Choice {
  /** Counted from before the question. */
  readonly ageMs: number;
  /** Resolves with undefined when the replica did not answer. */
  readonly ask: <Answer>(
    question: (store: Pick<BookingStore, "readEvents" | "listEvents">) => Promise<Answer>,
  ) => Promise<Answer | undefined>;
}
