/** Who follows the log of a shard, through whichever of its nodes answers, and asks again when one does not. */
import {
  type ChangesAnswer,
  type ChangesRequest,
  RPC,
  RPC_VERSION,
  RPC_VERSION_HEADER,
} from "../../shared/wire/rpc.ts";
import { INTERNAL_TOKEN, type Node } from "./cluster.ts";
import { give } from "./http.ts";
import type { Rules } from "./rules.ts";
import type { SimulatedShard } from "./store.ts";
import { world } from "./world.ts";

const WAIT_MS = 400;
/** A node that has not answered by then is given up. */
const TIMEOUT_MS = 3_000;
const RETRY_MS = 50;

export class Follower {
  readonly shard: SimulatedShard;
  readonly #nodes: ReadonlyMap<string, Node>;
  readonly #rules: Rules;
  #position = 0;

  constructor(shard: SimulatedShard, nodes: ReadonlyMap<string, Node>, rules: Rules) {
    this.shard = shard;
    this.#nodes = nodes;
    this.#rules = rules;
  }

  /** Follows until nothing is left after `isOver`. */
  async follow(isOver: () => boolean): Promise<void> {
    for (;;) {
      const mayEnd = isOver();
      const nodes = [...this.#nodes.values()].filter(({ shard }) => shard === this.shard);
      const answer = nodes.length === 0 ? undefined : await this.#ask(world().pick(nodes));
      if (answer?.outcome === "position_dropped")
        this.#rules.break("J3", `${this.shard.id} dropped what it has`);
      if (answer?.outcome !== "changes") {
        await world().sleep(RETRY_MS);
        continue;
      }
      this.#rules.followed(this.shard, answer.changes);
      this.#position = answer.position;
      if (mayEnd && answer.changes.length === 0) return;
    }
  }

  /** The node's answer; undefined when it gives none. */
  #ask({ server, process }: Node): Promise<ChangesAnswer | undefined> {
    const { promise, resolve } = Promise.withResolvers<ChangesAnswer | undefined>();
    const timeout = world().after(TIMEOUT_MS, () => resolve(undefined));
    const body: ChangesRequest = { follower: "follower", after: this.#position, waitMs: WAIT_MS };
    const headers = { authorization: `Bearer ${INTERNAL_TOKEN}`, [RPC_VERSION_HEADER]: RPC_VERSION };
    const request = { method: "POST", path: RPC.changes, headers, body: JSON.stringify(body) };
    let text = "";
    const hearer = {
      head: () => undefined,
      data: (piece: Buffer) => void (text += piece.toString()),
      end: () => resolve(JSON.parse(text) as ChangesAnswer),
    };
    world().after(world().between(0.1, 1), () => void give(server, request, hearer), process);
    return promise.finally(() => (timeout.cancelled = true));
  }
}
