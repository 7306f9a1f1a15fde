/**
 * The same work on 1, 2 and 4 shards and through 1 and 2 routers. Two cores carry no more with four shards than with one, so
 * what is compared is the work that a processor second does. Then, on the same cluster, the calibration that the capacity
 * part can use again (docs/capacity.md).
 */
import { calibrate, calibrationSeconds } from "../capacity/calibration/calibrate.ts";
import { keepApart } from "../capacity/calibration/places.ts";
import { Probe } from "../capacity/calibration/probe.ts";
import { keepCalibration } from "../capacity/keep.ts";
import { idleTable, scaleFigures, scalePlots, turnsTable } from "../capacity/scale/report.ts";
import { LARGEST } from "../capacity/scale/shapes.ts";
import { scaleSeconds, takeTurns } from "../capacity/scale/turns.ts";
import { costsTable, trafficTable } from "../capacity/tables.ts";
import { startGenerator } from "../load/run.ts";
import type { ClusterPart, Outcome, PartContext } from "../part.ts";

const CALIBRATION_ROUNDS = 2;
const CLUSTER_SECONDS = 12;

export const scale: ClusterPart = {
  name: "scale",
  title: "what a request costs on 1, 2 and 4 shards",
  seconds: 0.4,
  estimate: (seconds) =>
    CLUSTER_SECONDS + scaleSeconds(seconds) + calibrationSeconds(CALIBRATION_ROUNDS, seconds),
  cluster: LARGEST,
  run,
};

async function run({ cluster, seconds, signal, progress }: PartContext): Promise<Outcome> {
  await using generator = startGenerator({ signal, progress });
  await using second = startGenerator({ signal, progress });
  await using probe = new Probe(cluster);
  const generators = [generator, second];
  using _places = keepApart(cluster, generators);
  const result = await takeTurns({ cluster, probe, generators }, { seconds, signal, progress });
  const rounds = CALIBRATION_ROUNDS;
  const calibration = await calibrate(cluster, { generator, rounds, seconds, signal, progress });
  return {
    figures: scaleFigures(result),
    tables: [turnsTable(result), idleTable(result), costsTable(calibration), trafficTable(calibration)],
    plots: scalePlots(result),
    notes: [
      "clients are so many that batches are alike; why, and what is weak about it: docs/capacity.md",
      `calibration kept in ${keepCalibration(calibration)}; npm run bench -- capacity --reuse 1 uses it`,
    ],
  };
}
