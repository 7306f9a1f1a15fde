/** `npm run after-restore -- --shard shard-0`: brings a restored shard back into the cluster, before its nodes start. */
import { parseArgs } from "node:util";
import { readConfig } from "../shared/process/config.ts";
import { parseShardId } from "../shared/domain/ids.ts";
import { catalogConfig } from "./config.ts";
import { settleRestoredShard } from "./shards.ts";

try {
  const { CATALOG_URL } = readConfig(catalogConfig, process.env);
  const { values } = parseArgs({ options: { shard: { type: "string" } } });
  const id = parseShardId(values.shard ?? "");
  if (id === undefined) throw new Error("use: npm run after-restore -- --shard SHARD");
  const events = await settleRestoredShard(CATALOG_URL, id);
  console.log(`${id} owns what the catalog says, and its ${events} events have new versions`);
} catch (error) {
  console.error(`after-restore: ${error instanceof Error ? error.message : String(error)}`);
  process.exit(1);
}
