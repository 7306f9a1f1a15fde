/** The settings of the auditor. */
import { z } from "zod";
import { host, integer, logLevel, port } from "../../shared/process/config.ts";
import { postgresUrl } from "../../shared/database/url.ts";

export const auditorConfig = z.object({
  CATALOG_URL: postgresUrl,
  HOST: host,
  ADMIN_PORT: port(9092),
  LOG_LEVEL: logLevel,
  /** The pause between two audits. Each reads every row of every shard. */
  AUDIT_INTERVAL_SECONDS: integer({ min: 1, max: 86_400, default: 600 }),
});
export type AuditorConfig = z.infer<typeof auditorConfig>;
