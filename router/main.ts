/** `npm run router`: the stateless front of the cluster. Settings: router/config.ts. */
import { readConfig } from "../shared/process/config.ts";
import { runRole } from "../shared/process/lifecycle.ts";
import { routerConfig } from "./config.ts";
import { startRouter } from "./router.ts";

await runRole("router", async () => startRouter(readConfig(routerConfig, process.env)));
