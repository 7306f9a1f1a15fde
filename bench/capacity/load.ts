/**
 * One load on a cluster: what it had done, and the processor time that this cost each kind of process. The time that the
 * processes need without any request is taken off.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { BenchCluster } from "../bench-cluster.ts";
import type { AnswerClass, LoadPlan } from "../load/plan.ts";
import { targetOf } from "../load/plans.ts";
import type { Generator } from "../load/run.ts";
import { processorSeconds, processorSecondsOfTree } from "../processes.ts";

/** `hearing` is a router that gets no requests: all its work is to hear of changed events. */
export const PROCESSES = ["router", "hearing", "node", "postgres", "redis"] as const;
export type Process = (typeof PROCESSES)[number];

/** What costs something. A miss is a read that a router's memory cannot answer; it costs this much on top of a read. */
export const THINGS = ["reads", "misses", "refusals", "bookings", "batches"] as const;
export type Thing = (typeof THINGS)[number];

/** How often each was done: in a load, or in a second. */
export type Done = Readonly<Record<Thing, number>>;
/** Processor microseconds. */
export type Spent = Readonly<Record<Process, number>>;

export interface Load {
  readonly done: Done;
  readonly spent: Spent;
  readonly sent: number;
}

const IDLE_SECONDS = 2;
const CLASSES: readonly AnswerClass[] = ["confirmed", "refused", "read"];

export class LoadMeter {
  readonly #cluster: BenchCluster;
  readonly #generator: Generator;
  readonly #idle: Spent;

  /** Measures what the processes use while nobody asks for anything. */
  static async start(cluster: BenchCluster, generator: Generator): Promise<LoadMeter> {
    const [before, began] = [spentBy(cluster), performance.now()];
    await sleep(IDLE_SECONDS * 1000);
    const seconds = (performance.now() - began) / 1000;
    const used = difference(spentBy(cluster), before);
    return new LoadMeter(
      cluster,
      generator,
      eachProcess((process) => used[process] / seconds),
    );
  }

  private constructor(cluster: BenchCluster, generator: Generator, idle: Spent) {
    this.#cluster = cluster;
    this.#generator = generator;
    this.#idle = idle;
  }

  /** Sends a load to the first router, as fast as it answers. Throws when an answer is neither a yes nor an expected no. */
  async measure(label: string, load: Pick<LoadPlan, "connections" | "seconds" | "requests">): Promise<Load> {
    const target = targetOf(this.#cluster.router.url);
    const counted = await countersOf(this.#cluster);
    const [before, began] = [spentBy(this.#cluster), performance.now()];
    const report = await this.#generator.run({ target, warmUpSeconds: 0, ...load }, label);
    const used = difference(spentBy(this.#cluster), before);
    const seconds = (performance.now() - began) / 1000;
    const { batches, misses } = await countersOf(this.#cluster);
    const { confirmed, refused, read } = report.allClasses;
    if (CLASSES.reduce((sum, each) => sum + report.allClasses[each], 0) !== report.sent)
      throw new Error(`${label}: unexpected answers: ${JSON.stringify(report.counts)}`);
    return {
      done: {
        reads: read,
        misses: misses - counted.misses,
        refusals: refused,
        bookings: confirmed,
        batches: batches - counted.batches,
      },
      spent: eachProcess((process) => Math.max(0, used[process] - this.#idle[process] * seconds)),
      sent: report.sent,
    };
  }
}

export function eachProcess<Value>(value: (process: Process) => Value): Record<Process, Value> {
  return Object.fromEntries(PROCESSES.map((process) => [process, value(process)])) as Record<Process, Value>;
}

export function totalOf(spent: Spent): number {
  return PROCESSES.reduce((sum, process) => sum + spent[process], 0);
}

function difference(after: Spent, before: Spent): Spent {
  return eachProcess((process) => after[process] - before[process]);
}

/** Since the start of each process. */
function spentBy({ routers, shards, redis }: BenchCluster): Spent {
  const [router, hearing] = routers.map(({ pid }) => processorSeconds(pid));
  const seconds = {
    router: router ?? 0,
    hearing: hearing ?? 0,
    node: shards.reduce((sum, { nodePid }) => sum + processorSeconds(nodePid), 0),
    postgres: shards.reduce((sum, { postgresPid }) => sum + processorSecondsOfTree(postgresPid), 0),
    redis: redis?.pid === undefined ? 0 : processorSeconds(redis.pid),
  };
  return eachProcess((process) => seconds[process] * 1e6);
}

/** The product's own counters, of all its processes. */
async function countersOf({ routers, shards }: BenchCluster): Promise<{ batches: number; misses: number }> {
  const sumOf = async (urls: readonly string[], metric: RegExp) => {
    const texts = await Promise.all(urls.map(async (url) => (await fetch(`${url}/metrics`)).text()));
    return texts.reduce((sum, text) => sum + Number(metric.exec(text)?.[1] ?? 0), 0);
  };
  return {
    batches: await sumOf(
      shards.map(({ nodeAdminUrl }) => nodeAdminUrl),
      /^onsale_lane_batch_size_count(?:\{.*\})? (\S+)$/m,
    ),
    misses: await sumOf(
      routers.map(({ adminUrl }) => adminUrl),
      /^onsale_event_cache_requests_total\{tier="memory",result="miss"\} (\S+)$/m,
    ),
  };
}
