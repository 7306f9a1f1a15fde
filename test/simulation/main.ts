/**
 * Runs the simulation for many seeds:   npm run simulate -- --seeds 10000 --from 1
 * Replays one, with its whole story:    npm run simulate -- --from 4711
 */
import { parseArgs } from "node:util";
import { FAULT_KINDS } from "./faults.ts";
import { tell, type Told } from "./story.ts";

const { values } = parseArgs({
  options: {
    from: { type: "string", default: "1" },
    seeds: { type: "string", default: "1" },
    /** The only kind of fault, or "none". */
    fault: { type: "string" },
    /** Goes on after a seed that breaks a rule. */
    all: { type: "boolean", default: false },
    /** Prints a hash of each seed's story: two runs of a seed have the same. */
    traces: { type: "boolean", default: false },
  },
});
const only =
  FAULT_KINDS.find((kind) => kind === values.fault) ?? (values.fault === "none" ? "none" : undefined);
if (values.fault !== undefined && only === undefined) {
  console.log(`--fault is none, ${FAULT_KINDS.join(", ")}`);
  process.exit(1);
}
const [from, seeds] = [Number(values.from), Number(values.seeds)];

const answers = new Map<string, number>();
const faults = new Map<string, number>();
const started = performance.now();
let simulatedMs = 0;
let told: Told | undefined;
let count = 0;
let broken = 0;
process.on("uncaughtException", (error) => {
  console.log(`seed ${from + count}: ${error.stack ?? String(error)}`);
  process.exit(1);
});
for (; count < seeds; count += 1) {
  told = await tell(from + count, only);
  simulatedMs += told.simulatedMs;
  for (const [answer, times] of told.answers) answers.set(answer, (answers.get(answer) ?? 0) + times);
  for (const fault of told.faults) faults.set(fault, (faults.get(fault) ?? 0) + 1);
  if (values.traces) console.log(`trace ${told.seed} ${told.hash}`);
  if (!values.all && (seeds === 1 || told.broken !== undefined)) console.log(told.lines.join("\n"));
  if (told.broken === undefined) continue;
  broken += 1;
  console.log(`seed ${told.seed} breaks ${told.broken.message}`);
  if (values.all) continue;
  console.log(
    `replay it: npm run simulate -- --from ${told.seed}${only === undefined ? "" : ` --fault "${only}"`}`,
  );
  break;
}
const seconds = (performance.now() - started) / 1000;
const inOrder = (counts: ReadonlyMap<string, number>) =>
  [...counts]
    .toSorted(([a], [b]) => a.localeCompare(b))
    .map(([name, times]) => `  ${String(times).padStart(8)} ${name}`);
console.log([...inOrder(answers), ...inOrder(faults)].join("\n"));
console.log(
  `${count} seeds from ${from}, ${(simulatedMs / 1000).toFixed()} simulated seconds in ${seconds.toFixed(1)} s`,
);
process.exit(broken === 0 ? 0 : 1);
