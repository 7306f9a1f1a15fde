/**
 * What a load takes that this machine cannot carry: the processor time that each kind of request costs here, times the
 * requests. A mix that no cost was taken from is predicted and measured, to see how far to trust the costs (M4,
 * docs/capacity.md).
 */
import { eachProcess, type Load, LoadMeter, PROCESSES, THINGS, totalOf } from "../capacity/load.ts";
import { prepareLoads } from "../capacity/loads.ts";
import { type Asked, type Costs, costsOf, medianCosts, needsOf, predict } from "../capacity/needs.ts";
import { startGenerator } from "../load/run.ts";
import {
  atMost,
  type BareContext,
  type ClusterPart,
  type Figure,
  type NumberOption,
  type Outcome,
  type PartContext,
} from "../part.ts";
import type { Table } from "../tables.ts";

const ROUNDS = 3;
const LOADS = 6;
const WARM_UP_SECONDS = 1;
/** Minting tokens and making connections. */
const LOAD_SECONDS = 0.5;
const ERROR_MAX_PERCENT = 20;

const OPTIONS = {
  rps: { means: "requests a second", default: 1_000_000, min: 1_000, max: 10_000_000 },
  bookings: { means: "the share of requests that are bookings", default: 0.05, min: 0, max: 1 },
  "sold-out": { means: "the share of bookings that routers refuse", default: 0.5, min: 0, max: 1 },
  misses: {
    means: "the share of reads that routers cannot answer from memory",
    default: 0.1,
    min: 0,
    max: 1,
  },
  batch: { means: "bookings that a shard decides together", default: 4, min: 1, max: 500 },
  utilisation: { means: "how busy a process may be", default: 0.6, min: 0.1, max: 0.95 },
} as const satisfies Record<string, NumberOption>;
type Option = keyof typeof OPTIONS;

export const capacity: ClusterPart<Option> = {
  name: "capacity",
  title: "what a larger load takes, from what each kind of request costs here",
  seconds: 2,
  estimate: (seconds) => 20 + LOADS * (WARM_UP_SECONDS + LOAD_SECONDS + ROUNDS * (seconds + LOAD_SECONDS)),
  onlyNamed: true,
  options: OPTIONS,
  // The second router gets no requests: what it uses is the price of hearing of changes.
  cluster: { shards: 2, routers: 2 },
  run,
};

async function run(context: PartContext & BareContext<Option>): Promise<Outcome> {
  const { cluster, seconds, options } = context;
  await using generator = startGenerator(context);
  const measureAll = await prepareLoads(context, await LoadMeter.start(cluster, generator));
  await measureAll("capacity: warming up", WARM_UP_SECONDS);
  const rounds = [];
  for (let round = 1; round <= ROUNDS; round += 1)
    rounds.push(await measureAll(`capacity: round ${round} of ${ROUNDS}`, seconds));
  const { "sold-out": soldOut, ...others } = options;
  return outcomeOf(
    medianCosts(rounds.map((round) => costsOf(round.costs))),
    rounds.map(({ mix }) => mix),
    { ...others, soldOut },
  );
}

/** `mixes`: the loads that the prediction is checked with. */
export function outcomeOf(costs: Costs, mixes: readonly Load[], asked: Asked): Outcome {
  const sum = eachProcess((process) => mixes.reduce((total, { spent }) => total + spent[process], 0));
  const done = Object.fromEntries(
    THINGS.map((thing) => [thing, mixes.reduce((total, mix) => total + mix.done[thing], 0)]),
  ) as Load["done"];
  const requests = done.reads + done.refusals + done.bookings;
  const predicted = predict(costs, done);
  const percent = Math.abs(totalOf(predicted) / totalOf(sum) - 1) * 100;
  const perRequest = (microseconds: number) => microseconds / requests;
  return {
    figures: [
      {
        name: "error of the prediction",
        value: percent,
        unit: "%",
        target: atMost(ERROR_MAX_PERCENT, percent, "%"),
        note:
          `a request of the mix takes ${perRequest(totalOf(predicted)).toFixed(0)} µs by the costs, ` +
          `${perRequest(totalOf(sum)).toFixed(0)} µs measured`,
      },
      ...needFigures(costs, asked),
    ],
    tables: [
      costsTable(costs),
      {
        title: "The mix that checks the costs: processor time of a request",
        columns: [{ name: "" }, ...PROCESSES.map((name) => ({ name, unit: "µs" as const }))],
        rows: [
          ["predicted", ...PROCESSES.map((process) => perRequest(predicted[process]))],
          ["measured", ...PROCESSES.map((process) => perRequest(sum[process]))],
        ],
        note:
          `${share(done.reads, requests)} reads, of which ${share(done.misses, done.reads)} missed; ${share(done.refusals, requests)} ` +
          `refusals; ${share(done.bookings, requests)} bookings in batches of ${(done.bookings / done.batches).toFixed(1)}`,
      },
    ],
    notes: ["what these figures leave out: docs/capacity.md"],
  };
}

function needFigures(costs: Costs, asked: Asked): Figure[] {
  const { routers, shards, postgresCores, redis, bookingsOfOneShard } = needsOf(costs, asked);
  const bound = asked.utilisation * 100;
  return [
    {
      name: "routers, a core each",
      value: routers,
      unit: "count",
      ...(routers === Infinity && { target: { wanted: "a number that carries this", met: false } }),
    },
    { name: "shards, a node with a core each", value: shards, unit: "count" },
    { name: "PostgreSQL, cores of all shards", value: postgresCores, unit: "ratio" },
    {
      name: "Redis, of its one thread",
      value: redis * 100,
      unit: "%",
      target: atMost(bound, redis * 100, "%"),
    },
    {
      name: "bookings of one shard, so of one event",
      value: bookingsOfOneShard,
      unit: "/s",
      note: `in batches of ${asked.batch}`,
    },
  ];
}

function costsTable(costs: Costs): Table {
  return {
    title: "What each costs: processor time of each kind of process",
    columns: [{ name: "" }, ...PROCESSES.map((name) => ({ name, unit: "µs" as const }))],
    rows: THINGS.map((thing) => [thing, ...PROCESSES.map((process) => costs[process][thing])]),
    note: "a miss comes on top of its read, and a batch on top of its bookings; hearing is what every further router does",
  };
}

const share = (part: number, whole: number) => `${((part / whole) * 100).toFixed(0)} %`;
