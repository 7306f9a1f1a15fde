/** What the capacity part found out, as figures, tables and plots. */
import { atMost, type Figure } from "../figures.ts";
import type { Outcome } from "../part.ts";
import type { Estimate } from "./costs.ts";
import type { Findings } from "./findings.ts";
import type { Plan } from "./model.ts";
import { plotsOf } from "./plots.ts";
import { costsTable, needsTable, phasesTable, shardsTable, trafficTable, validationTable } from "./tables.ts";
import type { Validation } from "./validation.ts";
import { percent, range } from "./words.ts";

const ERROR_MAX_PERCENT = 20;
const SHARES_SHOWN = [0.1, 0.5, 0.9, 0.99];

export function outcomeOf(findings: Findings): Outcome {
  const { run } = findings;
  return {
    figures: [...validationFigures(findings.validation), ...planFigures(findings), ...runFigures(findings)],
    tables: [
      needsTable(findings),
      ...(run === undefined ? [] : [phasesTable(run), shardsTable(findings, run)]),
      validationTable(findings.validation),
      costsTable(findings.calibration),
      trafficTable(findings.calibration),
    ],
    plots: run === undefined ? [] : plotsOf(findings, run),
    notes: notesOf(findings),
  };
}

/** The predicted and the measured throughput of this machine, and how far they lie apart. */
function validationFigures({ mix, predicted, measured, others, error }: Validation): Figure[] {
  return [
    {
      name: "this machine, predicted",
      value: predicted.value,
      unit: "/s",
      note: `${range(predicted)}; ${mix}`,
    },
    {
      name: "this machine, measured",
      value: measured.value,
      unit: "/s",
      note: `${range(measured)}; a load that no cost was measured with`,
    },
    {
      name: "error of the prediction",
      value: error * 100,
      unit: "%",
      target: atMost(ERROR_MAX_PERCENT, error * 100, "%"),
      note: `${others.toFixed(2)} cores were used by others and are left out of the prediction`,
    },
  ];
}

function planFigures({ asked, plan, plans }: Findings): Figure[] {
  const of = (value: (plan: Plan) => number): Estimate => {
    const each = [plan, ...plans].map(value);
    return { value: value(plan), low: Math.min(...each), high: Math.max(...each) };
  };
  const [routers, shards] = [of((each) => each.routers), of((each) => each.shards.length)];
  const limit = asked.utilisation * 100;
  const mega = (plan.shards[plan.mega]?.utilisation ?? 0) * 100;
  return [
    {
      name: "routers",
      value: routers.value,
      unit: "count",
      ...(plan.routers === Infinity && { target: { wanted: "a number that carries this", met: false } }),
      note: range(routers),
    },
    {
      name: "shards, a node each",
      value: shards.value,
      unit: "count",
      ...(!plan.carried && { target: { wanted: "a number that carries this", met: false } }),
      note: range(shards),
    },
    {
      name: "busiest shard, mega event left out",
      value: plan.ordinary * 100,
      unit: "%",
      target: atMost(limit, plan.ordinary * 100, "%"),
    },
    ...(plan.mega < 0
      ? []
      : [
          {
            name: "shard of the mega event",
            value: mega,
            unit: "%",
            target: atMost(plan.megaMax * 100, mega, "%"),
            note: "one event is on one shard: no other takes anything off it",
          } as const,
        ]),
    // What routers ask of Redis depends on their number.
    ...(plan.routers === Infinity
      ? []
      : [
          {
            name: "Redis, of its one thread",
            value: plan.redis * 100,
            unit: "%",
            target: atMost(limit, plan.redis * 100, "%"),
          } as const,
        ]),
  ];
}

function runFigures({ run }: Findings): Figure[] {
  if (run === undefined) return [];
  return [
    {
      name: "simulated bookings, p50",
      value: run.phases.before.p50,
      unit: "ms",
      note: "at the router, all shards up",
    },
    { name: "simulated bookings, p99", value: run.phases.before.p99, unit: "ms" },
    {
      name: "simulated reads, p99",
      value: run.routers.reads.p99,
      unit: "ms",
      note: "wait and work at the router",
    },
  ];
}

function notesOf({ asked, calibration, demand, plan }: Findings): string[] {
  const count = (value: number) => Math.round(value).toLocaleString("en");
  const { batchTimeShares: shares } = calibration;
  return [
    `asked: ${count(demand.reads)} reads, ${count(demand.refusals)} refusals from memory, ${count(demand.spread)} bookings by Zipf ` +
      `and ${count(demand.hot)} of the mega event a second; no process busier than ${percent(asked.utilisation)}`,
    ...(plan.routers === Infinity
      ? [
          "no number of routers carries this: each has to hear of more changes than it can; what depends on it is not planned",
        ]
      : [
          `of the reads ${count(plan.misses)} a second miss a router's memory and ${count(plan.shardReads)} come to a shard`,
        ]),
    `every router hears of ${count(plan.published.events)} changed events a second`,
    `costs of ${calibration.date}, ${calibration.processor}, ${calibration.rounds.length} rounds; batches took ` +
      SHARES_SHOWN.map((share) => (shares[Math.floor(share * shares.length)] ?? 1).toFixed(2)).join(", ") +
      ` of the fitted time (p10, p50, p90, p99)`,
    ...(plan.carried
      ? []
      : ["no number of shards carries this: one event is more than a shard takes, or the number was given"]),
    "assumptions and what this cannot tell: docs/capacity.md",
  ];
}
