/**
 * `npm run read-side`: answers what concerns all shards, from a database of its own. `npm run read-side -- rebuild` fills that
 * database anew, beside what serves. Settings: read-side/config.ts.
 */
import { readConfig } from "../shared/process/config.ts";
import { runRole } from "../shared/process/lifecycle.ts";
import { readSideConfig, rebuildConfig } from "./config.ts";
import { withCluster } from "./location.ts";
import { rebuildOnce, startReadSide } from "./read-side.ts";

const [task, ...others] = process.argv.slice(2);
if (task === undefined) {
  await runRole("read-side", async () => startReadSide(readConfig(readSideConfig, process.env)));
} else if (task === "rebuild" && others.length === 0) {
  try {
    await rebuildOnce(readConfig(rebuildConfig, withCluster(process.env)));
    console.log("read-side: the new tables serve");
    process.exit(0);
  } catch (error) {
    console.error(`read-side: ${error instanceof Error ? error.message : String(error)}`);
    process.exit(1);
  }
} else {
  console.error("use: npm run read-side, or npm run read-side -- rebuild");
  process.exit(1);
}
