/** `npm run auditor`: audits again and again; its admin port has the results. */
import { readConfig } from "../../shared/process/config.ts";
import { runRole } from "../../shared/process/lifecycle.ts";
import { startAuditor } from "./auditor.ts";
import { auditorConfig } from "./config.ts";

await runRole("auditor", async () => startAuditor(readConfig(auditorConfig, process.env)));
