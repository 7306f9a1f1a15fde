/** Tells of changed events, some at a time; one that changes meanwhile is told of once (shard-node/publisher.ts). */
import { PUBLISH_PAUSE_MS, PUBLISHED_MAX } from "../product.ts";
import type { Agenda } from "./agenda.ts";
import type { Command } from "./command.ts";

export interface PublisherOptions {
  readonly agenda: Agenda;
  readonly publish: (events: readonly number[]) => void;
}

export class Publisher {
  readonly #options: PublisherOptions;
  readonly #pending = new Set<number>();
  #flushing = false;

  constructor(options: PublisherOptions) {
    this.#options = options;
  }

  changed(commands: readonly Command[]): void {
    for (const { event } of commands) this.#pending.add(event);
    if (!this.#flushing) this.#flush();
  }

  #flush(): void {
    const { agenda, publish } = this.#options;
    this.#flushing = this.#pending.size > 0;
    if (!this.#flushing) return;
    const events: number[] = [];
    for (const event of this.#pending) {
      if (events.length >= PUBLISHED_MAX) break;
      events.push(event);
      this.#pending.delete(event);
    }
    publish(events);
    agenda.after(PUBLISH_PAUSE_MS, () => this.#flush());
  }
}
