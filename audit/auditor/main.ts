/** `npm run auditor`: audits again and again, and says on its admin port what it found. Settings: config.ts. */
import { readConfig } from "../../shared/process/config.ts";
import { runRole } from "../../shared/process/lifecycle.ts";
import { startAuditor } from "./auditor.ts";
import { auditorConfig } from "./config.ts";

await runRole("auditor", async () => startAuditor(readConfig(auditorConfig, process.env)));
