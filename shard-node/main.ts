/** `npm run shard-node`: a writer of one shard. Settings: shard-node/config.ts. */
import { readConfig } from "../shared/process/config.ts";
import { runRole } from "../shared/process/lifecycle.ts";
import { nodeConfig } from "./config.ts";
import { startNode } from "./node.ts";

await runRole("shard-node", async () => startNode(readConfig(nodeConfig, process.env)));
