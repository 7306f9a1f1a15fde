/** A simulated lane of a node: it decides one batch at a time, and what comes meanwhile is the next one (shard-node/decide/lanes.ts). */
import type { Costs } from "../costs.ts";
import type { Limits } from "../product.ts";
import type { Agenda } from "./agenda.ts";
import type { Call, Command } from "./command.ts";
import type { Processor } from "./processor.ts";

/** How long a session of the database works on a batch, and how long it waits for the disk then, in milliseconds. */
export type Decide = (commands: readonly Command[]) => { readonly work: number; readonly flush: number };

export interface LaneOptions {
  readonly agenda: Agenda;
  readonly node: Processor;
  readonly decide: Decide;
  readonly costs: Costs["node"];
  readonly limits: Limits;
}

export interface LaneHooks {
  readonly committed: (commands: readonly Command[]) => void;
  /** Every command of the call has its answer. */
  readonly answered: (call: Call) => void;
}

interface Waiting {
  readonly command: Command;
  readonly call: Call;
}

export class Lane {
  /** Of all batches so far. */
  batches = 0;
  decided = 0;
  readonly session: Processor;
  readonly #options: LaneOptions;
  readonly #hooks: LaneHooks;
  #queue: Waiting[] = [];
  #working = false;
  /** Rises when everything is forgotten, so that a batch under way finds that out. */
  #life = 0;

  constructor(session: Processor, options: LaneOptions, hooks: LaneHooks) {
    this.session = session;
    this.#options = options;
    this.#hooks = hooks;
  }

  run(waiting: Waiting): void {
    const { limits, node } = this.#options;
    if (this.#queue.length >= limits.laneQueueMax) return this.#settle(waiting, "overloaded");
    this.#queue.push(waiting);
    if (this.#working) return;
    this.#working = true;
    const life = this.#life;
    // Behind what the node is reading, so that all commands of a call are in the first batch.
    node.run(0, () => life === this.#life && this.#work());
  }

  forget(): void {
    this.#life += 1;
    this.#queue = [];
    this.#working = false;
  }

  #work(): void {
    const { agenda, node, costs, decide } = this.#options;
    const batch = this.#take();
    if (batch.length === 0) {
      this.#working = false;
      return;
    }
    this.batches += 1;
    this.decided += batch.length;
    const life = this.#life;
    const commands = batch.map(({ command }) => command);
    const { work, flush } = decide(commands);
    this.session.run(work, () =>
      agenda.after(flush, () =>
        node.run(costs.batch / 1000, () => {
          if (life !== this.#life) return;
          for (const waiting of batch) this.#settle(waiting, "decided");
          this.#hooks.committed(commands);
          this.#work();
        }),
      ),
    );
  }

  #take(): Waiting[] {
    const { agenda, limits } = this.#options;
    const batch: Waiting[] = [];
    let taken = 0;
    for (const waiting of this.#queue) {
      if (batch.length >= limits.batchMax) break;
      taken += 1;
      if (waiting.command.arrivedAt + limits.deadlineMs <= agenda.now) this.#settle(waiting, "overloaded");
      else batch.push(waiting);
    }
    this.#queue = this.#queue.slice(taken);
    return batch;
  }

  #settle({ command, call }: Waiting, answer: "decided" | "overloaded"): void {
    command.answer = answer;
    call.open -= 1;
    if (call.open === 0) this.#hooks.answered(call);
  }
}
