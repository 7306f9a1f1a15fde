/** What the scale part found out, as figures, tables and plots. */
import { atMost, type Figure } from "../../figures.ts";
import type { Plot } from "../../plots.ts";
import type { Table } from "../../tables.ts";
import { FOUR_SHARDS, LARGEST, ONE_SHARD, type Shape, TWO_ROUTERS, TWO_SHARDS } from "./shapes.ts";
import type { ScaleResult, TurnResult, Work } from "./turns.ts";

/** How much dearer a request may be on four shards than on one. */
const DEARER_MAX = 1.1;
const MICROSECONDS = 1e6;
const WORKS = [
  { work: "bookings", title: "a booking" },
  { work: "mix", title: "a request of the mix" },
] as const;

export function scaleFigures({ turns, others }: ScaleResult): Figure[] {
  const figures = WORKS.flatMap(({ work, title }) => {
    const of = (shape: Shape) => resultOf(turns, shape, work);
    return [
      beside(`${title}: 4 shards beside 1`, of(FOUR_SHARDS), of(ONE_SHARD), DEARER_MAX),
      beside(`${title}: 2 shards beside 1`, of(TWO_SHARDS), of(ONE_SHARD)),
      beside(`${title}: 2 routers beside 1, 2 shards`, of(TWO_ROUTERS), of(TWO_SHARDS)),
    ];
  });
  const four = resultOf(turns, FOUR_SHARDS, "bookings");
  return [
    ...figures,
    beside(
      `a booking: ${four.clients} clients on 4 shards beside the same on 1`,
      four,
      resultOf(turns, ONE_SHARD, "bookings", four.clients),
    ),
    { name: "cores that others used meanwhile", value: others, unit: "ratio" },
  ];
}

export function turnsTable({ turns }: ScaleResult): Table {
  const micro = (name: string) => ({ name, unit: "µs" }) as const;
  return {
    title: "Processor time of a request, idle cost taken off, medians of the rounds",
    columns: [
      { name: "cluster" },
      { name: "work" },
      { name: "clients" },
      { name: "a processor second", unit: "/s" },
      micro("all"),
      micro("routers"),
      micro("nodes"),
      micro("PostgreSQL"),
      micro("Redis"),
      { name: "in a batch", unit: "ratio" },
      { name: "in a call", unit: "ratio" },
      { name: "answers", unit: "/s" },
    ],
    rows: turns.map(
      ({ shape, work, clients, total, routers, nodes, postgres, redis, batch, call, perSecond }) => [
        shape.name,
        work,
        clients,
        MICROSECONDS / total,
        total,
        routers,
        nodes,
        postgres,
        redis,
        batch,
        call,
        perSecond,
      ],
    ),
    note: "bookings: of 10,000 events evenly; mix: 95 reads, 5 bookings, Zipf. The load generator is not counted.",
  };
}

export function idleTable({ idle }: ScaleResult): Table {
  return {
    title: "What the processes use when nothing is asked of them, thousandths of a core",
    columns: [
      `${LARGEST.routers} routers`,
      `${LARGEST.shards} nodes`,
      `${LARGEST.shards} PostgreSQL servers`,
      "Redis",
    ].map((name) => ({ name })),
    rows: [[idle.routers, idle.nodes, idle.postgres, idle.redis]],
    note: "Taken off everything above, in proportion to the time.",
  };
}

export function scalePlots({ turns }: ScaleResult): Plot[] {
  return WORKS.map(({ work, title }) => {
    const shown = turns.filter((turn) => turn.work === work);
    return {
      kind: "bars",
      title: `Processor time of ${title}`,
      axis: { title: "µs" },
      categories: shown.map(({ shape, clients }) => `${shape.name}, ${clients} clients`),
      stacked: true,
      bars: [
        { name: "routers", values: shown.map(({ routers }) => routers) },
        { name: "nodes", values: shown.map(({ nodes }) => nodes) },
        { name: "PostgreSQL", values: shown.map(({ postgres }) => postgres) },
        { name: "Redis", values: shown.map(({ redis }) => redis) },
      ],
    };
  });
}

function beside(name: string, one: TurnResult, other: TurnResult, dearerMax?: number): Figure {
  const value = one.total / other.total;
  const rounds = one.rounds.map((total, round) => (total / (other.rounds[round] ?? Number.NaN)).toFixed(2));
  return {
    name,
    value,
    unit: "×",
    ...(dearerMax !== undefined && { target: atMost(dearerMax, value, "×") }),
    note:
      `${Math.round(one.total)} µs beside ${Math.round(other.total)} µs; rounds ${rounds.join(" ")}; ` +
      `batches of ${one.batch.toFixed(1)} and ${other.batch.toFixed(1)}`,
  };
}

function resultOf(turns: readonly TurnResult[], shape: Shape, work: Work, clients?: number): TurnResult {
  const found = turns.find(
    (turn) =>
      turn.shape === shape && turn.work === work && (clients === undefined || turn.clients === clients),
  );
  if (found === undefined) throw new Error(`there is no turn of ${shape.name} with ${work}`);
  return found;
}
