/** Rounds share a cluster as long as they can. */
import { type LoadedCluster, startLoadedCluster } from "./cluster.ts";
import type { Fault } from "./faults.ts";

/** The cluster that rounds share, until one of them needs another or has used it up. */
export class Clusters implements AsyncDisposable {
  readonly #seed: number;
  #cluster: LoadedCluster | undefined;

  constructor(seed: number) {
    this.#seed = seed;
  }

  async for(faults: readonly Fault[]): Promise<LoadedCluster> {
    const extra = faults.find(({ needs }) => needs !== undefined)?.needs;
    const cluster = this.#cluster;
    const isUsedUp = cluster?.isWhole === false || cluster?.extra === "replica";
    if (cluster?.extra !== extra || isUsedUp) await this[Symbol.asyncDispose]();
    return (this.#cluster ??= await startLoadedCluster(this.#seed, extra));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const cluster = this.#cluster;
    this.#cluster = undefined;
    await cluster?.[Symbol.asyncDispose]();
  }
}
