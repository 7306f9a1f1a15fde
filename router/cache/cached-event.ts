/** One version of an event in the router's memory, and how fresh it is. */
import type { Event, Snapshot } from "../../shared/domain/events.ts";

/** When each kind of source was last asked and had no newer version, by `elapsed()`. NEVER when the source may lag. */
export interface Confirmation {
  readonly byAnySource: number;
  /** Only the shard itself may say "sold out". */
  readonly byShard: number;
}
export const NEVER = Number.NEGATIVE_INFINITY;

export class CachedEvent {
  readonly snapshot: Snapshot;
  readonly etag: string;
  /** When this router learned of this version, by `elapsed()`. */
  readonly learnedAt: number;
  confirmed: Confirmation;
  #body: { readonly text: string; readonly bytes: string } | undefined;

  constructor(snapshot: Snapshot, confirmed: Confirmation, learnedAt: number) {
    this.snapshot = snapshot;
    this.etag = etagOf(snapshot.event);
    this.learnedAt = learnedAt;
    this.confirmed = confirmed;
  }

  /**
   * The event as JSON, with its length for `content-length`. Made once for all readers, and only for the first: a hot event
   * changes far more often than this router serves it.
   */
  get body(): { readonly text: string; readonly bytes: string } {
    return (this.#body ??= bodyOf(this.snapshot.event));
  }
}

/** One version is one text, so the tag is a strong one (RFC 9110 §8.8.1). */
export function etagOf({ version }: Event): string {
  return `"${version}"`;
}

function bodyOf(event: Event): { text: string; bytes: string } {
  const text = JSON.stringify(event);
  return { text, bytes: String(Buffer.byteLength(text)) };
}
