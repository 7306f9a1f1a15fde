/**
 * A whole cluster, every process on a core of its own, under an open load: requests come whether or not earlier ones
 * were answered. Bookings that shards decide are followed one by one, what routers answer by themselves only in how long
 * it waits. After a while a shard is lost, and later it comes back.
 */
import { invariant } from "../../../shared/domain/invariant.ts";
import { seededRandom, weightedChoice } from "../../random.ts";
import type { Costs } from "../costs.ts";
import type { Demand } from "../demand.ts";
import { type Catalogue, laneOf, shardOf } from "../popularity.ts";
import { BREAKER_OPEN_MS, type Limits } from "../product.ts";
import { Agenda } from "./agenda.ts";
import type { Command, Outcome } from "./command.ts";
import type { Decide } from "./lane.ts";
import { BusyCore, OwnCore } from "./processor.ts";
import { Router } from "./router.ts";
import { Shard } from "./shard.ts";
import { ClusterRecord, type Moment, type Phase, PHASES, type RecordOptions } from "./record.ts";
import type { AnswersSummary, Percentiles } from "./statistics.ts";

export interface ClusterSimulation extends RecordOptions {
  readonly demand: Demand;
  readonly costs: Costs;
  /** What the time of a batch is multiplied by, one of them at random. */
  readonly batchTimeShares: readonly number[];
  readonly catalogue: Catalogue;
  readonly limits: Limits;
  readonly routers: number;
  /** The share of reads that memory cannot answer. */
  readonly missed: number;
  /** Between two machines, one way. */
  readonly networkMs: number;
  readonly seed: number;
}

export interface ShardRun {
  /** From 0 to 1. */
  readonly node: number;
  readonly lanes: readonly { readonly utilisation: number; readonly batch: number }[];
  readonly phases: Readonly<Record<Phase, AnswersSummary>>;
}

export interface ClusterRun {
  readonly submitted: number;
  readonly ended: Readonly<Record<Outcome, number>>;
  /** Of all phases. */
  readonly overall: Percentiles & { readonly meanMs: number };
  readonly phases: Readonly<Record<Phase, AnswersSummary>>;
  readonly shards: readonly ShardRun[];
  readonly routers: { readonly utilisation: number; readonly reads: Percentiles };
  readonly moments: readonly Moment[];
}

export function simulateCluster(options: ClusterSimulation): ClusterRun {
  const { demand, costs, catalogue, limits, networkMs, warmUpMs, phaseMs, lost, seed } = options;
  const agenda = new Agenda();
  const random = seededRandom(seed);
  const endMs = warmUpMs + PHASES.length * phaseMs;
  const record = new ClusterRecord(options);

  const redis = new OwnCore(agenda);
  const cores = Array.from(
    { length: options.routers },
    (_, router) =>
      new BusyCore(agenda, backgroundOf(options, seededRandom(seed + 1 + router)), (milliseconds, at) =>
        record.read(milliseconds, at),
      ),
  );
  const publish = (events: readonly number[]): void => {
    redis.run((costs.redis.published * events.length) / 1000);
    for (const core of cores) core.run((costs.router.heard * events.length) / 1000);
  };
  const shards = Array.from({ length: options.shards }, () => {
    const node = new OwnCore(agenda);
    const sessions = Array.from({ length: limits.lanes }, () => new OwnCore(agenda));
    const decide = batchTimes(options, random);
    const shard = new Shard({ agenda, node, sessions, decide, costs: costs.node, limits, publish });
    return Object.assign(shard, { node, sessions });
  });
  const routers = cores.map(
    (processor) =>
      new Router(shards, {
        agenda,
        processor,
        costs: costs.router,
        limits,
        networkMs,
        ended: (command, outcome) => record.booking(command, outcome, agenda.now),
      }),
  );

  const rate = (demand.hot + demand.spread) / 1000;
  const ordinary = weightedChoice(catalogue.shares, random);
  const mega = catalogue.slots.length - 1;
  const arrive = (): void => {
    const hot = random() * (demand.hot + demand.spread) < demand.hot;
    const event = hot ? mega : ordinary();
    const slot = catalogue.slots[event];
    invariant(slot !== undefined, "every event has a slot", { event });
    const router = Math.floor(random() * routers.length);
    const command: Command = {
      router,
      shard: shardOf(slot, shards.length),
      lane: laneOf(slot, limits.lanes),
      event,
      kind: hot ? "hot" : "spread",
      arrivedAt: agenda.now,
      answer: undefined,
      end: undefined,
    };
    record.submitted += 1;
    routers[router]?.book(command);
    const next = agenda.now + exponential(random, rate);
    if (next < endMs) agenda.at(next, arrive);
  };
  if (rate > 0) agenda.at(exponential(random, rate), arrive);

  const busy = () => ({
    routers: cores.reduce((sum, core) => (core.catchUp(), sum + core.busyMs), 0),
    shards: shards.map(({ node, sessions, lanes }) => ({
      node: node.busyMs,
      sessions: sessions.map(({ busyMs }) => busyMs),
      lanes: lanes.map(({ batches, decided }) => ({ batches, decided })),
    })),
  });
  let atStart = busy();
  let atEnd = atStart;
  agenda.at(warmUpMs, () => (atStart = busy()));
  agenda.at(endMs, () => (atEnd = busy()));
  if (lost !== undefined) {
    const backAt = warmUpMs + 2 * phaseMs;
    agenda.at(warmUpMs + phaseMs, () => {
      shards[lost]?.lose();
      // Each router finds out that it is back when its breaker lets the next call through.
      for (const router of routers) router.avoid(lost, backAt + random() * BREAKER_OPEN_MS);
    });
    agenda.at(backAt, () => shards[lost]?.comeBack());
  }
  while (agenda.step());

  const countedMs = PHASES.length * phaseMs;
  return {
    ...record.result(),
    routers: {
      utilisation: (atEnd.routers - atStart.routers) / countedMs / cores.length,
      reads: record.reads.percentiles,
    },
    shards: shards.map((_, number) => {
      const [before, after] = [atStart.shards[number], atEnd.shards[number]];
      return {
        node: ((after?.node ?? 0) - (before?.node ?? 0)) / countedMs,
        lanes: (after?.lanes ?? []).map((lane, index) => ({
          utilisation: ((after?.sessions[index] ?? 0) - (before?.sessions[index] ?? 0)) / countedMs,
          batch:
            (lane.decided - (before?.lanes[index]?.decided ?? 0)) /
            Math.max(1, lane.batches - (before?.lanes[index]?.batches ?? 0)),
        })),
        phases: record.phasesOf(number),
      };
    }),
  };
}

/** What a router answers by itself: reads out of memory and others, and refusals. */
function backgroundOf({ demand, costs, routers, missed }: ClusterSimulation, random: () => number) {
  const rate = (demand.reads + demand.refusals) / 1000 / routers;
  const refused = demand.refusals / (demand.reads + demand.refusals);
  return () => {
    const gap = rate > 0 ? exponential(random, rate) : Infinity;
    const chance = random();
    const kind =
      chance < refused ? costs.router.refusal : random() < missed ? costs.router.miss : costs.router.read;
    return { gap, work: kind / 1000 };
  };
}

/** How long a lane is busy with a batch: as fitted, times what measured batches varied by. */
function batchTimes(
  { costs: { batchTime }, batchTimeShares }: ClusterSimulation,
  random: () => number,
): Decide {
  return (commands) => {
    const hot = commands.filter(({ kind }) => kind === "hot").length;
    const { fixed } = hot === commands.length ? batchTime.hot : batchTime.spread;
    const time = fixed + hot * batchTime.hot.booking + (commands.length - hot) * batchTime.spread.booking;
    const share = batchTimeShares[Math.floor(random() * batchTimeShares.length)] ?? 1;
    return { work: (time + batchTime.flush) * share, flush: 0 };
  };
}

/** The time to the next arrival when `rate` of them come in a millisecond, independently of each other. */
function exponential(random: () => number, rate: number): number {
  return -Math.log(1 - random()) / rate;
}
