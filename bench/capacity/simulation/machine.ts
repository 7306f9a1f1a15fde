/**
 * This machine: the same routers and shards on a few shared cores, together with the load generator, under a closed load
 * of so many connections that each have one request under way. What it predicts can be measured here.
 */
import { invariant } from "../../../shared/domain/invariant.ts";
import type { Costs } from "../costs.ts";
import { type Catalogue, laneOf, shardOf } from "../popularity.ts";
import { type Limits, READ_FRESH_MS, REDIS_KEEPS_MS } from "../product.ts";
import { seededRandom, weightedChoice } from "../../random.ts";
import { Agenda } from "./agenda.ts";
import type { Command } from "./command.ts";
import type { Decide } from "./lane.ts";
import { type Processor, SharedCores } from "./processor.ts";
import { Router } from "./router.ts";
import { Shard } from "./shard.ts";

/** However much others use, a process that waits long enough gets something. */
const LEAST_CORES = 0.05;

export interface MachineSimulation {
  readonly costs: Costs;
  /** A core for generator and routers and one for all behind them, or so many cores for everything together. */
  readonly cores: "apart" | number;
  /** Cores that others use. */
  readonly others: number;
  readonly connections: number;
  /** The share of requests that are bookings; the others are reads. Both go to events by their popularity. */
  readonly bookings: number;
  readonly catalogue: Catalogue;
  readonly limits: Limits;
  readonly shards: number;
  /** The first gets all requests; the others only hear of changes. */
  readonly routers: number;
  readonly warmUpMs: number;
  readonly countedMs: number;
  readonly seed: number;
}

export interface MachineRun {
  /** Answers a second. */
  readonly perSecond: number;
  /** Commands in a batch. */
  readonly batch: number;
  /** Cores that each kind of process keeps busy. */
  readonly busy: Readonly<Record<"generator" | "routers" | "nodes" | "postgres" | "redis" | "idle", number>>;
}

export function simulateMachine(options: MachineSimulation): MachineRun {
  const { costs, catalogue, limits, connections, warmUpMs, countedMs } = options;
  const agenda = new Agenda();
  const random = seededRandom(options.seed);
  // What the processes do without any request is taken off what there is, and so is what others use.
  const idleFront = (costs.router.idleSecond * options.routers) / 1e6;
  const idleBack =
    (costs.redis.idleSecond + (costs.node.idleSecond + costs.postgres.idleSecond) * options.shards) / 1e6;
  const idle = idleFront + idleBack;
  const shared = (cores: number) => new SharedCores(agenda, Math.max(LEAST_CORES, cores));
  const back =
    options.cores === "apart"
      ? shared(1 - idleBack - options.others / 2)
      : shared(options.cores - idle - options.others);
  const front = options.cores === "apart" ? shared(1 - idleFront - options.others / 2) : back;
  const [generator, redis] = [front.thread(), back.thread()];
  const processor = front.thread();
  const listeners = Array.from({ length: options.routers - 1 }, () => front.thread());
  const events = catalogue.slots.length;
  const [memory, kept] = [new Float64Array(events).fill(-Infinity), new Float64Array(events).fill(-Infinity)];

  const publish = (changed: readonly number[]): void => {
    redis.run((costs.redis.published * changed.length) / 1000);
    for (const each of [processor, ...listeners]) each.run((costs.router.heard * changed.length) / 1000);
    for (const event of changed) kept[event] = agenda.now + REDIS_KEEPS_MS;
  };
  const shards = Array.from({ length: options.shards }, () => {
    const node = back.thread();
    const sessions = Array.from({ length: limits.lanes }, () => back.thread());
    const shard = new Shard({
      agenda,
      node,
      sessions,
      decide: databaseWork(costs),
      costs: costs.node,
      limits,
      publish,
    });
    return Object.assign(shard, { node, sessions, reading: back.thread() });
  });
  const router = new Router(shards, {
    agenda,
    processor,
    costs: costs.router,
    limits,
    networkMs: 0,
    ended: (command) => {
      memory[command.event] = agenda.now + READ_FRESH_MS;
      answered("booking");
    },
  });

  let answers = 0;
  const draw = weightedChoice(catalogue.shares, random);
  const answered = (kind: "read" | "booking"): void => {
    answers += 1;
    generator.run(costs.generator[kind] / 2000, send);
  };
  const send = (): void => {
    const event = draw();
    const booking = random() < options.bookings;
    const slot = catalogue.slots[event];
    invariant(slot !== undefined, "every event has a slot", { event });
    const shard = shardOf(slot, shards.length);
    generator.run(costs.generator[booking ? "booking" : "read"] / 2000, () => {
      if (!booking) return read(event, shard);
      const lane = laneOf(slot, limits.lanes);
      const command: Command = {
        router: 0,
        shard,
        lane,
        event,
        kind: "spread",
        arrivedAt: agenda.now,
        answer: undefined,
        end: undefined,
      };
      router.book(command);
    });
  };
  const read = (event: number, shard: number): void => {
    const done = () => answered("read");
    if ((memory[event] ?? 0) > agenda.now) return processor.run(costs.router.read / 1000, done);
    memory[event] = agenda.now + READ_FRESH_MS;
    processor.run(costs.router.miss / 2000, () =>
      redis.run(costs.redis.miss / 1000, () => {
        const back = () => processor.run(costs.router.miss / 2000, done);
        if ((kept[event] ?? 0) > agenda.now) return back();
        kept[event] = agenda.now + REDIS_KEEPS_MS;
        const { node, reading } = shards[shard] ?? {};
        node?.run(costs.node.eventRead / 1000, () =>
          reading?.run(costs.postgres.eventRead / 1000, () =>
            processor.run(costs.router.eventRead / 1000, () => {
              redis.run(costs.redis.eventRead / 1000);
              back();
            }),
          ),
        );
      }),
    );
  };
  for (let connection = 0; connection < connections; connection += 1) send();

  const state = () => ({
    answers,
    generator: generator.busyMs,
    routers: sumOf([processor, ...listeners]),
    redis: redis.busyMs,
    nodes: sumOf(shards.map(({ node }) => node)),
    postgres: sumOf(shards.flatMap(({ sessions, reading }) => [...sessions, reading])),
    batches: shards.reduce((sum, { lanes }) => sum + lanes.reduce((all, lane) => all + lane.batches, 0), 0),
    decided: shards.reduce((sum, { lanes }) => sum + lanes.reduce((all, lane) => all + lane.decided, 0), 0),
  });
  while (agenda.now < warmUpMs && agenda.step());
  const before = state();
  while (agenda.now < warmUpMs + countedMs && agenda.step());
  const after = state();
  const cores = (kind: "generator" | "routers" | "nodes" | "postgres" | "redis") =>
    (after[kind] - before[kind]) / countedMs;
  return {
    perSecond: ((after.answers - before.answers) / countedMs) * 1000,
    batch: (after.decided - before.decided) / Math.max(1, after.batches - before.batches),
    busy: {
      generator: cores("generator"),
      routers: cores("routers"),
      nodes: cores("nodes"),
      postgres: cores("postgres"),
      redis: cores("redis"),
      idle,
    },
  };
}

/** The session works, then waits for the disk. */
function databaseWork({ postgres, batchTime }: Costs): Decide {
  return (commands) => {
    const work = commands.reduce((sum, { kind }) => sum + postgres.booking[kind], postgres.batch.spread);
    return { work: work / 1000, flush: batchTime.flush };
  };
}

function sumOf(processors: readonly Processor[]): number {
  return processors.reduce((sum, { busyMs }) => sum + busyMs, 0);
}
