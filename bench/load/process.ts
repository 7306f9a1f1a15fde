/** The load generator's process: gets plans, runs one after the other, reports. It ends when its parent does. */
import { generateLoad } from "./generator.ts";
import type { LoadMessage, LoadPlan } from "./plan.ts";

const tell = (message: LoadMessage) => void process.send?.(message);

process.once("disconnect", () => process.exit());
process.on("message", (plan: LoadPlan) => {
  generateLoad(plan, (seconds, answers) => tell({ kind: "progress", seconds, answers })).then(
    (report) => tell({ kind: "report", report }),
    (error: unknown) =>
      tell({ kind: "failed", reason: error instanceof Error ? error.message : String(error) }),
  );
});
