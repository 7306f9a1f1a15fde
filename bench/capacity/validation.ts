/**
 * Is the model right? A load that no cost was measured with, in the closed model, on a machine whose cores it fills:
 * predicted by the simulation with the calibrated costs, and measured.
 */
import { availableParallelism } from "node:os";
import { slotOf } from "../../shared/domain/slots.ts";
import type { BenchCluster } from "../cluster.ts";
import { median } from "../figures.ts";
import type { Generator } from "../load/run.ts";
import { zipfWeights } from "../random.ts";
import { expectAnswers, mixFor, setStage, type Stage } from "./calibration/loads.ts";
import { measureIdle, measureLoad, type Measured, PRELOAD_SECONDS, warmUp } from "./calibration/measure.ts";
import { Probe, type Sample } from "./calibration/probe.ts";
import { type Costs, type Estimate, middleOf } from "./costs.ts";
import { LIMITS } from "./product.ts";
import { type MachineRun, simulateMachine } from "./simulation/machine.ts";

/** 80 reads and 20 bookings, all by Zipf: dearer than a mix that one expects, so that every process matters. */
const BOOKINGS = 0.2;
const CONNECTIONS = 256;
const WARM_UP_SECONDS = 0.8;
const WARM_REQUESTS = 30_000;

export interface Validation {
  readonly mix: string;
  /** Requests a second. */
  readonly predicted: Estimate;
  readonly measured: Estimate;
  /** The prediction's distance from what was measured, as a share of it. */
  readonly error: number;
  readonly simulated: MachineRun;
  /** Commands in a batch, and cores that each kind of process kept busy. */
  readonly batch: number;
  readonly busy: Readonly<Record<"generator" | "routers" | "nodes" | "postgres" | "redis", number>>;
  /** Cores that processes used which are no part of this; the prediction does without them. */
  readonly others: number;
}

export interface ValidationOptions {
  readonly generator: Generator;
  /** Of each load. */
  readonly seconds: number;
  readonly signal: AbortSignal;
  /** Generator and routers have a core for themselves. */
  readonly apart: boolean;
}

/** About how long it takes to get ready, and to measure once. */
export function validationSeconds(seconds: number): { ready: number; once: number } {
  return { ready: 8, once: PRELOAD_SECONDS + seconds + 1 };
}

export class Validator implements AsyncDisposable {
  readonly #cluster: BenchCluster;
  readonly #options: ValidationOptions;
  readonly #stage: Stage;
  readonly #probe: Probe;
  #idle: Sample | undefined;
  readonly #loads: Measured[] = [];

  private constructor(cluster: BenchCluster, options: ValidationOptions, stage: Stage) {
    this.#cluster = cluster;
    this.#options = options;
    this.#stage = stage;
    this.#probe = new Probe(cluster);
  }

  /** Puts its events on sale and makes everything warm. */
  static async ready(cluster: BenchCluster, options: ValidationOptions): Promise<Validator> {
    const validator = new Validator(cluster, options, await setStage(cluster, { hotLoads: 0 }));
    validator.#idle = await measureIdle(validator.#probe, 1);
    await warmUp(WARM_REQUESTS, async () => validator.#load("validation: warming up", WARM_UP_SECONDS));
    return validator;
  }

  async measure(): Promise<void> {
    this.#loads.push(await this.#load(`validation: ${this.#loads.length + 1}`, this.#options.seconds));
  }

  /** What was measured beside what the costs predict; the measurements lie around those of the costs, in as many rounds. */
  judge(rounds: readonly Costs[]): Validation {
    const others = median(this.#loads.map((load) => load.others));
    const simulate = (costs: Costs) => simulateMachine({ ...this.#machine(others), costs });
    const simulated = simulate(middleOf(rounds));
    const all = this.#loads.map(({ perSecond }) => perSecond);
    const measured = median(all);
    const predicted = rounds.map((costs) => simulate(costs).perSecond);
    const busy = (of: (load: Measured) => number) =>
      median(this.#loads.map((load) => of(load) / load.seconds));
    return {
      mix:
        `${100 - BOOKINGS * 100} reads : ${BOOKINGS * 100} bookings over ` +
        `${this.#stage.spread.length.toLocaleString("en")} events, Zipf, ${CONNECTIONS} connections`,
      predicted: {
        value: simulated.perSecond,
        low: Math.min(simulated.perSecond, ...predicted),
        high: Math.max(simulated.perSecond, ...predicted),
      },
      measured: { value: measured, low: Math.min(...all), high: Math.max(...all) },
      error: Math.abs(simulated.perSecond / measured - 1),
      simulated,
      batch: median(this.#loads.map(({ batched, batches }) => batched / batches)),
      busy: {
        generator: busy((load) => (load.generator * load.requests) / 1e6),
        routers: busy((load) => load.router + load.listener),
        nodes: busy((load) => load.nodes),
        postgres: busy((load) => load.postgres),
        redis: busy((load) => load.redis),
      },
      others,
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#probe[Symbol.asyncDispose]();
  }

  async #load(label: string, seconds: number): Promise<Measured> {
    const { generator, signal } = this.#options;
    signal.throwIfAborted();
    const requests = mixFor(this.#stage, BOOKINGS);
    const streams = [{ generator, router: 0, connections: CONNECTIONS, requests }];
    const measured = await measureLoad({ cluster: this.#cluster, probe: this.#probe }, streams, {
      label,
      seconds,
      preloadSeconds: PRELOAD_SECONDS,
      ...(this.#idle && { idle: this.#idle }),
    });
    expectAnswers(label, measured, ["read", "confirmed"]);
    this.#stage.spreadBookings += measured.sent;
    return measured;
  }

  /** This machine and the load on it, with the events where they really lie. */
  #machine(others: number) {
    const weights = zipfWeights(this.#stage.spread.length, 1);
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return {
      cores: this.#options.apart ? ("apart" as const) : availableParallelism(),
      others,
      connections: CONNECTIONS,
      bookings: BOOKINGS,
      catalogue: {
        slots: this.#stage.spread.map(slotOf),
        shares: weights.map((weight) => weight / total),
      },
      limits: LIMITS,
      shards: this.#cluster.shards.length,
      routers: this.#cluster.routers.length,
      // Caches are as empty at the beginning as they are in reality, and fill for as long.
      warmUpMs: PRELOAD_SECONDS * 1000,
      countedMs: this.#options.seconds * 1000,
      seed: 1,
    };
  }
}
