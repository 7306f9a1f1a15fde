/**
 * A simulated shard: its node takes calls apart for its lanes and answers each when all of it is decided
 * (shard-node/rpc.ts). It can be lost and come back.
 */
import type { Costs } from "../costs.ts";
import type { Call } from "./command.ts";
import { Lane, type LaneHooks, type LaneOptions } from "./lane.ts";
import type { Processor } from "./processor.ts";
import { Publisher } from "./publisher.ts";

export interface ShardOptions extends LaneOptions {
  /** The database session of each lane. */
  readonly sessions: readonly Processor[];
  /** Told of events that have changed, as often as the real one tells Redis. */
  readonly publish: (events: readonly number[]) => void;
}

export class Shard {
  readonly lanes: readonly Lane[];
  readonly #options: ShardOptions;
  readonly #calls = new Set<Call>();
  readonly #publisher: Publisher;
  #lost = false;

  constructor(options: ShardOptions) {
    this.#options = options;
    this.#publisher = new Publisher(options);
    const hooks: LaneHooks = {
      committed: (commands) => this.#publisher.changed(commands),
      answered: (call) => this.#answer(call),
    };
    this.lanes = options.sessions.map((session) => new Lane(session, options, hooks));
  }

  receive(call: Call): void {
    const { node, costs } = this.#options;
    if (this.#lost) return call.returned();
    this.#calls.add(call);
    node.run(this.#half(call, costs), () => {
      if (!this.#calls.has(call)) return; // lost meanwhile
      for (const command of call.commands) this.lanes[command.lane]?.run({ command, call });
    });
  }

  /** Everything under way ends without an answer, and so does what comes until it is back. */
  lose(): void {
    this.#lost = true;
    for (const lane of this.lanes) lane.forget();
    for (const call of this.#calls) call.returned();
    this.#calls.clear();
  }

  comeBack(): void {
    this.#lost = false;
  }

  #answer(call: Call): void {
    const { node, costs } = this.#options;
    this.#calls.delete(call);
    node.run(this.#half(call, costs), call.returned);
  }

  #half({ commands }: Call, costs: Costs["node"]): number {
    return commands.reduce((sum, { kind }) => sum + costs.booking[kind], costs.call) / 2000;
  }
}
