/**
 * Audits the cluster again and again, for Prometheus: an audit that somebody must remember to run gets forgotten. It is a
 * process of its own, so that no node reads every row.
 */
import { startAdminServer } from "../../shared/watch/admin-server.ts";
import { systemClock } from "../../shared/process/clock.ts";
import type { Running } from "../../shared/process/lifecycle.ts";
import { createLog } from "../../shared/process/log.ts";
import { createRegistry, instruments } from "../../shared/watch/metrics.ts";
import { Outage } from "../../shared/process/outage.ts";
import { repeat } from "../../shared/process/repeat.ts";
import { audit, AUDITED_RULES, type AuditReport } from "../audit.ts";
import type { AuditorConfig } from "./config.ts";

/** An audit that could not read a database is soon tried again: databases may come later than their auditor. */
const RETRY_MS = 5_000;

export interface RunningAuditor extends Running {
  readonly adminUrl: string;
}

/** Starts the auditor. It is ready after the first whole audit, and keeps trying while a shard does not answer. */
export async function startAuditor(config: AuditorConfig): Promise<RunningAuditor> {
  const log = createLog("auditor", config.LOG_LEVEL);
  const registry = createRegistry();
  const { gauge } = instruments(registry);
  // No value before the first audit has ended: "unknown" must not look like "clean".
  const violations = gauge(
    "onsale_audit_violations",
    "Rows that broke a rule when all shards were last audited, as far as they are shown.",
    ["rule"],
  );
  const lastRun = gauge(
    "onsale_audit_last_run_timestamp_seconds",
    "When an audit of all shards last ended, in Unix time; 0 before the first one.",
  );
  const shards = new Outage(log, "the catalog or a shard");
  let audited = false;

  const note = (report: AuditReport): void => {
    for (const rule of AUDITED_RULES) {
      violations.set(
        { rule },
        report.violations.filter((violation) => violation.rule.startsWith(rule)).length,
      );
    }
    lastRun.set(systemClock.now() / 1000);
    audited = true;
    for (const violation of report.violations) log.error(violation, "a rule is broken");
  };
  const intervalMs = config.AUDIT_INTERVAL_SECONDS * 1000;
  const auditing = repeat(
    async () => {
      note(await audit(config.CATALOG_URL));
      shards.worked();
    },
    intervalMs,
    (error) => shards.failed(error),
    Math.min(RETRY_MS, intervalMs),
  );
  const admin = await startAdminServer({
    host: config.HOST,
    port: config.ADMIN_PORT,
    registry,
    unready: () => (audited ? undefined : "no audit has ended yet"),
  });
  log.info({ adminUrl: admin.url }, "auditing");
  return {
    adminUrl: admin.url,
    async close() {
      await admin.close();
      await auditing.stop();
    },
  };
}
