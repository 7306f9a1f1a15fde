/** A simulated router: bookings for a shard gather while all calls that may be under way are (router/shards/coalescer.ts). */
import type { Costs } from "../costs.ts";
import type { Limits } from "../product.ts";
import type { Agenda } from "./agenda.ts";
import type { Call, Command, Outcome } from "./command.ts";
import type { Processor } from "./processor.ts";
import type { Shard } from "./shard.ts";

export interface RouterOptions {
  readonly agenda: Agenda;
  readonly processor: Processor;
  readonly costs: Costs["router"];
  readonly limits: Limits;
  readonly networkMs: number;
  readonly ended: (command: Command, outcome: Outcome) => void;
}

export class Router {
  readonly processor: Processor;
  readonly #options: RouterOptions;
  readonly #lines: Line[];

  constructor(shards: readonly Shard[], options: RouterOptions) {
    this.processor = options.processor;
    this.#options = options;
    this.#lines = shards.map((shard) => new Line(shard, options));
  }

  /** A client asks for it; `ended` is told how it ends. */
  book(command: Command): void {
    const { processor, costs } = this.#options;
    processor.run(costs.booking[command.kind] / 2000, () => this.#lines[command.shard]?.run(command));
  }

  /** The breaker keeps calls from this shard until then. */
  avoid(shard: number, until: number): void {
    const line = this.#lines[shard];
    if (line !== undefined) line.openUntil = until;
  }
}

/** Between a router and a shard. */
class Line {
  openUntil = 0;
  readonly #shard: Shard;
  readonly #options: RouterOptions;
  #queue: Command[] = [];
  #inFlight = 0;
  #scheduled = false;

  constructor(shard: Shard, options: RouterOptions) {
    this.#shard = shard;
    this.#options = options;
  }

  run(command: Command): void {
    const { agenda, limits, ended } = this.#options;
    if (agenda.now < this.openUntil) return ended(command, "unavailable");
    if (this.#queue.length >= limits.callQueueMax) return ended(command, "overloaded");
    this.#queue.push(command);
    this.#schedule();
  }

  #schedule(): void {
    const { processor, costs, limits } = this.#options;
    if (this.#scheduled || this.#inFlight >= limits.inFlightMax) return;
    this.#scheduled = true;
    // Behind what the router has to do already: commands that it has to read first go with this call.
    processor.run(costs.call / 2000, () => {
      this.#scheduled = false;
      this.#dispatch();
    });
  }

  #dispatch(): void {
    const { agenda, limits, networkMs, ended } = this.#options;
    const commands: Command[] = [];
    let taken = 0;
    for (const command of this.#queue) {
      if (commands.length >= limits.callMax) break;
      taken += 1;
      if (command.arrivedAt + limits.deadlineMs <= agenda.now) ended(command, "overloaded");
      else commands.push(command);
    }
    this.#queue = this.#queue.slice(taken);
    if (commands.length === 0) return;
    this.#inFlight += 1;
    if (this.#queue.length > 0) this.#schedule();
    const call: Call = {
      commands,
      open: commands.length,
      returned: () => agenda.after(networkMs, () => this.#returned(call)),
    };
    agenda.after(networkMs, () => this.#shard.receive(call));
  }

  #returned({ commands }: Call): void {
    const { processor, costs, ended } = this.#options;
    const work = commands.reduce((sum, { kind }) => sum + costs.booking[kind], costs.call);
    processor.run(work / 2000, () => {
      this.#inFlight -= 1;
      for (const command of commands) ended(command, command.answer ?? "unavailable");
      if (this.#queue.length > 0) this.#schedule();
    });
  }
}
