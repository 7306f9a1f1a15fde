/** Calibrations are kept beside the results of the benchmark, to be used again. */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Calibration, calibrationSchema } from "./costs.ts";

const DIRECTORY = join(import.meta.dirname, "../results");
const NAME = /^calibration-.*\.json$/;

/** Returns the file. */
export function keepCalibration(calibration: Calibration): string {
  mkdirSync(DIRECTORY, { recursive: true });
  const file = join(DIRECTORY, `calibration-${calibration.date.replaceAll(":", "-")}.json`);
  writeFileSync(file, `${JSON.stringify(calibration, null, 2)}\n`);
  return file;
}

/** Throws when there is none, or it is of another version of the benchmark. */
export function newestCalibration(): Calibration {
  mkdirSync(DIRECTORY, { recursive: true });
  // Their names begin with the moment.
  const newest = readdirSync(DIRECTORY)
    .filter((name) => NAME.test(name))
    .toSorted()
    .at(-1);
  if (newest === undefined) throw new Error("there is no calibration in bench/results/: run without --reuse");
  const read = calibrationSchema.safeParse(JSON.parse(readFileSync(join(DIRECTORY, newest), "utf8")));
  if (!read.success) throw new Error(`bench/results/${newest} cannot be used any more: run without --reuse`);
  return read.data;
}
