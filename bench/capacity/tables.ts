/** The tables of the capacity part. */
import type { Table } from "../tables.ts";
import { type Calibration, middleOf } from "./costs.ts";
import type { Findings } from "./findings.ts";
import { busiestOf } from "./model.ts";
import { type Need, needsOf } from "./needs.ts";
import { rateOf } from "./shard-plan.ts";
import type { ClusterRun } from "./simulation/cluster.ts";
import { PHASES } from "./simulation/record.ts";
import type { Validation } from "./validation.ts";
import { percent, short } from "./words.ts";

const SHARDS_SHOWN = 16;

export function needsTable({ asked, calibration, demand, plan, plans }: Findings): Table {
  const all = [plan, ...plans].map((each) => needsOf(each, demand, calibration.traffic, asked.utilisation));
  const [needs = []] = all;
  return {
    title: `What ${asked.rps.toLocaleString("en")} requests a second take, ${percent(asked.bookings)} of them bookings`,
    columns: [
      { name: "of" },
      { name: "what" },
      { name: "needed" },
      { name: "lowest round" },
      { name: "highest round" },
    ],
    rows: needs.map((need, index) => {
      const values = all.map((each) => each[index]?.value ?? Number.NaN);
      return [
        need.of,
        need.what,
        ...[need.value, Math.min(...values), Math.max(...values)].map((value) => amount(value, need)),
      ];
    }),
  };
}

export function phasesTable(run: ClusterRun): Table {
  return {
    title: "The simulated cluster before, while and after one shard is lost",
    columns: [
      { name: "phase" },
      { name: "decided" },
      { name: "503 at once" },
      { name: "overloaded" },
      { name: "p50", unit: "ms" },
      { name: "p99", unit: "ms" },
    ],
    rows: PHASES.map((phase) => {
      const { decided, unavailable, overloaded, p50, p99 } = run.phases[phase];
      return [phase, decided, unavailable, overloaded, p50, p99];
    }),
  };
}

/** The busiest, the one that is lost among them. */
export function shardsTable({ plan, lost }: Findings, run: ClusterRun): Table {
  const shown = busiestOf(plan)
    .filter((shard, index) => index < SHARDS_SHOWN || shard === lost)
    .flatMap((shard) => {
      const [planned, simulated] = [plan.shards[shard], run.shards[shard]];
      return planned === undefined || simulated === undefined ? [] : [{ shard, planned, simulated }];
    });
  return {
    title: `Its shards${shown.length < plan.shards.length ? `, the busiest ${shown.length} of ${plan.shards.length}` : ""}`,
    columns: [
      { name: "shard" },
      { name: "bookings", unit: "/s" },
      { name: "node", unit: "%" },
      { name: "lanes" },
      { name: "in a batch" },
      { name: "p50 before", unit: "ms" },
      { name: "p99 before", unit: "ms" },
      { name: "p99 while lost", unit: "ms" },
      { name: "p99 after", unit: "ms" },
      { name: "503 while lost" },
    ],
    rows: shown.map(({ shard, planned, simulated: { node, lanes, phases } }) => [
      `${shard}${shard === plan.mega ? " (mega event)" : ""}${shard === lost ? " (lost)" : ""}`,
      rateOf(planned.load),
      node * 100,
      lanes.map(({ utilisation }) => percent(utilisation)).join(" "),
      lanes.map(({ batch }) => batch.toFixed(1)).join(" "),
      phases.before.p50,
      phases.before.p99,
      phases.lost.decided === 0 ? null : phases.lost.p99,
      phases.after.p99,
      phases.lost.unavailable,
    ]),
    note: "A lane is busy whenever anything waits; how much more it could take shows in its batches, of at most 500.",
  };
}

export function validationTable({ simulated, busy, batch }: Validation): Table {
  return {
    title: "This machine: cores that each kind of process keeps busy",
    columns: [
      { name: "" },
      { name: "generator", unit: "ratio" },
      { name: "routers", unit: "ratio" },
      { name: "nodes", unit: "ratio" },
      { name: "PostgreSQL", unit: "ratio" },
      { name: "Redis", unit: "ratio" },
      { name: "in a batch", unit: "ratio" },
    ],
    rows: [
      ["predicted", ...coresOf(simulated.busy), simulated.batch],
      ["measured", ...coresOf(busy), batch],
    ],
  };
}

function coresOf(busy: Validation["busy"]): number[] {
  return [busy.generator, busy.routers, busy.nodes, busy.postgres, busy.redis];
}

/** Every number of the calibration: the median of its rounds, and all of them. */
export function costsTable({ rounds: all }: Calibration): Table {
  const middle = middleOf(all);
  return {
    title: "What it costs: processor microseconds, batch times in milliseconds",
    columns: [{ name: "of" }, { name: "median" }, { name: "rounds" }],
    rows: namesIn(middle).map((name) => [
      name.join(" "),
      short(valueAt(middle, name)),
      all.map((round) => short(valueAt(round, name))).join(" "),
    ]),
  };
}

/** What a request moves, in bytes but where a line says otherwise. */
export function trafficTable({ traffic }: Calibration): Table {
  return {
    title: "What it moves, in bytes; commands are those of Redis for a changed event",
    columns: [{ name: "of" }, { name: "bytes" }],
    rows: namesIn(traffic).map((name) => [name.join(" "), short(valueAt(traffic, name))]),
  };
}

function namesIn(value: unknown, path: readonly string[] = []): string[][] {
  if (typeof value !== "object" || value === null) return [[...path]];
  return Object.entries(value).flatMap(([name, inner]) => namesIn(inner, [...path, name]));
}

function valueAt(value: unknown, path: readonly string[]): number {
  return Number(path.reduce((inner, name) => (inner as Record<string, unknown>)[name], value));
}

function amount(value: number, { unit }: Need): string {
  return Number.isFinite(value) ? `${short(value)} ${unit}`.trimEnd() : short(value);
}
