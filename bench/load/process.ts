/** The load generator's process: gets one plan, runs it, reports, ends. It also ends when its parent does. */
import { generateLoad } from "./generator.ts";
import type { LoadMessage, LoadPlan } from "./plan.ts";

const tell = (message: LoadMessage) => process.send?.(message);

process.once("disconnect", () => process.exit(1));
process.once("message", (plan: LoadPlan) => {
  void generateLoad(plan, (seconds, answers) => tell({ kind: "progress", seconds, answers })).then((report) =>
    process.send?.({ kind: "report", report } satisfies LoadMessage, () => process.exit(0)),
  );
});
