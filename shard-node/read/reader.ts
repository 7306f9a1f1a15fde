/**
 * Where reads of events go: to a replica that is fresh enough for the caller, else to the primary. A replica is tried
 * once. An event that it lacks is read from the primary: the replica may not have it yet (docs/decisions/0011-replica-reads.md).
 */
import type { EventId } from "../../shared/domain/ids.ts";
import { DatabaseError } from "../../shared/database/database.ts";
import type { Span } from "../../shared/watch/tracing.ts";
import type { ListResponse, ReadResult } from "../../shared/wire/rpc.ts";
import type { Snapshot } from "../../shared/domain/events.ts";
import type { BookingStore } from "../store/booking-store.ts";
import type { Replica } from "./replica.ts";

type EventReads = Pick<BookingStore, "readEvents" | "listEvents">;

export interface ReaderOptions {
  readonly primary: EventReads;
  readonly replicas: readonly {
    readonly replica: Pick<Replica, "ageMs" | "doubt">;
    readonly store: EventReads;
  }[];
  /** No answer of a replica may be older. */
  readonly lagMaxMs: number;
  /** Told of each statement by the server that answered it. */
  readonly read: (source: "primary" | "replica") => void;
}

export class Reader {
  readonly #options: ReaderOptions;

  constructor(options: ReaderOptions) {
    this.#options = options;
  }

  /** One result per id. `maxAgesMs` is the greatest age of each; without it, only the newest will do. */
  async readEvents(
    ids: readonly EventId[],
    maxAgesMs: readonly number[] = [],
    span?: Span,
  ): Promise<ReadResult<Snapshot>[]> {
    const { ageMs, ask } = this.#choose();
    const results = new Map<EventId, ReadResult<Snapshot>>();
    const fromPrimary = async (wanted: readonly EventId[]): Promise<void> => {
      if (wanted.length === 0) return;
      this.#options.read("primary");
      const answers = await this.#options.primary.readEvents(wanted, span);
      for (const [index, id] of wanted.entries()) results.set(id, answers[index] ?? { outcome: "absent" });
    };
    const fromReplica = async (wanted: readonly EventId[]): Promise<void> => {
      if (wanted.length === 0) return;
      const answers = await ask(async (store) => store.readEvents(wanted, span));
      for (const [index, id] of wanted.entries()) {
        const answer = answers?.[index];
        if (answer?.outcome === "found") results.set(id, { ...answer, ageMs });
      }
    };
    const isFresh = ids.map((_, index) => ageMs < (maxAgesMs[index] ?? 0));
    await Promise.all([
      fromPrimary(ids.filter((_, index) => isFresh[index] === false)),
      fromReplica(ids.filter((_, index) => isFresh[index] === true)),
    ]);
    await fromPrimary(ids.filter((id) => !results.has(id)));
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

  /** The first replica below `lagMaxMs`; one of infinite age when there is none. */
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
}

interface Choice {
  /** At the moment before the replica is asked. */
  readonly ageMs: number;
  /** Resolves to undefined when the replica failed. */
  readonly ask: <Answer>(question: (store: EventReads) => Promise<Answer>) => Promise<Answer | undefined>;
}
