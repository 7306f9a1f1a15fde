/**
 * What a load that this machine cannot carry would take: measured costs of every kind of request, a model that turns them
 * into routers, nodes and shards, a simulation of that cluster, and the proof that the model predicts this machine
 * (docs/capacity.md).
 */
import { calibrate, calibrationSeconds } from "../capacity/calibration/calibrate.ts";
import { keepApart } from "../capacity/calibration/places.ts";
import { type Calibration, middleOf } from "../capacity/costs.ts";
import { type Demand, demandOf } from "../capacity/demand.ts";
import { keepCalibration, newestCalibration } from "../capacity/keep.ts";
import { busiestOf, type Plan, planOf } from "../capacity/model.ts";
import { type Asked, CAPACITY_OPTIONS, type CapacityOption, readAsked } from "../capacity/options.ts";
import { type Catalogue, catalogueOf } from "../capacity/popularity.ts";
import { LIMITS } from "../capacity/product.ts";
import { outcomeOf } from "../capacity/report.ts";
import { type ClusterRun, simulateCluster } from "../capacity/simulation/cluster.ts";
import { validationSeconds, Validator } from "../capacity/validation.ts";
import { startGenerator } from "../load/run.ts";
import type { BareContext, ClusterPart, Outcome, PartContext } from "../part.ts";

const ROUNDS = 3;
const CLUSTER_SECONDS = 10;
const SIMULATION_SECONDS = 10;
const EVENTS = 10_000;
const ZIPF_EXPONENT = 1;
/** Between two machines of a data centre, one way. */
const NETWORK_MS = 0.2;
const WARM_UP_MS = 500;
/** A simulated phase: long enough for a breaker to let calls through again, and no longer than these are to go through. */
const PHASE_MS = { min: 1_500, max: 4_000 };
const SIMULATED_MAX = { bookings: 300_000, others: 10_000_000 };

export const capacity: ClusterPart<CapacityOption> = {
  name: "capacity",
  title: "what a larger load would take, from what everything costs here",
  seconds: 0.8,
  estimate(seconds) {
    const { ready, once } = validationSeconds(seconds);
    return (
      CLUSTER_SECONDS + ready + calibrationSeconds(ROUNDS, seconds) + 2 * ROUNDS * once + SIMULATION_SECONDS
    );
  },
  onlyNamed: true,
  options: CAPACITY_OPTIONS,
  cluster: { shards: 2, routers: 2 },
  run,
};

async function run(context: PartContext & BareContext<CapacityOption>): Promise<Outcome> {
  const { cluster, options, seconds, signal, progress } = context;
  const asked = readAsked(options);
  const kept = asked.reuse ? newestCalibration() : undefined;
  await using generator = startGenerator({ signal, progress });
  using places = keepApart(cluster, [generator]);
  const measuring = { generator, seconds, signal, progress };
  progress.show("capacity: making everything warm");
  await using validator = await Validator.ready(cluster, { ...measuring, apart: places.apart });
  const around = async () => validator.measure();
  const calibration = kept ?? (await calibrate(cluster, { ...measuring, rounds: ROUNDS, around }));
  if (kept === undefined) progress.say(`calibration kept in ${keepCalibration(calibration)}`);
  for (let round = 0; round < calibration.rounds.length && kept !== undefined; round += 1) await around();
  const validation = validator.judge(calibration.rounds);

  progress.show("capacity: planning");
  const demand = demandOf(asked);
  const catalogue = catalogueOf({ events: EVENTS, exponent: ZIPF_EXPONENT, seed: asked.seed });
  const { utilisation, shards } = asked;
  const terms = { demand, catalogue, utilisation, shards, networkMs: NETWORK_MS };
  const plan = planOf({ ...terms, costs: middleOf(calibration.rounds) });
  const plans = calibration.rounds.map((costs) => planOf({ ...terms, costs }));
  const lost = busiestOf(plan).find((shard) => shard !== plan.mega) ?? 0;
  progress.show("capacity: simulating");
  const simulated =
    plan.routers === Infinity ? undefined : simulate({ plan, demand, catalogue, calibration, asked, lost });
  return outcomeOf({ asked, calibration, demand, plan, plans, validation, run: simulated, lost });
}

function simulate(options: {
  plan: Plan;
  demand: Demand;
  catalogue: Catalogue;
  calibration: Calibration;
  asked: Asked;
  lost: number;
}): ClusterRun {
  const { plan, demand, catalogue, calibration, asked, lost } = options;
  const most = Math.min(
    (SIMULATED_MAX.bookings / (demand.hot + demand.spread)) * 1000,
    (SIMULATED_MAX.others / (demand.reads + demand.refusals)) * 1000,
    PHASE_MS.max,
  );
  return simulateCluster({
    demand,
    catalogue,
    costs: middleOf(calibration.rounds),
    batchTimeShares: calibration.batchTimeShares,
    limits: LIMITS,
    shards: plan.shards.length,
    routers: plan.routers,
    missed: demand.reads === 0 ? 0 : plan.misses / demand.reads,
    networkMs: NETWORK_MS,
    warmUpMs: WARM_UP_MS,
    phaseMs: Math.max(PHASE_MS.min, most),
    lost,
    seed: asked.seed,
  });
}
