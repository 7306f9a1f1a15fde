/** `npm run move-slot -- --slot 17 --to shard-1`: moves a slot that holds no event to another shard. */
import { parseArgs } from "node:util";
import { readConfig } from "../shared/process/config.ts";
import { parseShardId } from "../shared/domain/ids.ts";
import { isSlot } from "../shared/domain/slots.ts";
import { catalogConfig } from "./config.ts";
import { moveEmptySlot } from "./shards.ts";

try {
  const { CATALOG_URL } = readConfig(catalogConfig, process.env);
  const { values } = parseArgs({ options: { slot: { type: "string" }, to: { type: "string" } } });
  const slot = Number(values.slot ?? Number.NaN);
  const to = parseShardId(values.to ?? "");
  if (!isSlot(slot) || to === undefined)
    throw new Error("use: npm run move-slot -- --slot 0…4095 --to SHARD");
  await moveEmptySlot(CATALOG_URL, slot, to);
  console.log(`slot ${slot} belongs to ${to}`);
} catch (error) {
  console.error(`move-slot: ${error instanceof Error ? error.message : String(error)}`);
  process.exit(1);
}
