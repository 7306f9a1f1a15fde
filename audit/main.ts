/** `npm run audit`: checks the rules in all shards, and the read side. Exit 0 when all hold, else 1 with the rows that break one. */
import { ConfigError } from "../shared/process/config.ts";
import { DatabaseError } from "../shared/database/database.ts";
import { audit, type Violation } from "./audit.ts";
import { findCluster } from "./location.ts";
import { auditReadSide } from "./read-side.ts";

/** How often a long comparison says how far it is. */
const PROGRESS_MS = 10_000;

try {
  const { catalogUrl, readSideUrl } = findCluster(process.env);
  const report = await audit(catalogUrl);
  const { shards, events, bookings, ticketsSold } = report;
  say(
    report.violations,
    `${shards} shards, ${events} events, ${bookings} bookings, ${ticketsSold} tickets sold`,
  );
  if (readSideUrl === undefined) console.error("audit: no read side is known (READ_SIDE_DATABASE_URL)");
  else {
    let said = performance.now();
    const compared = await auditReadSide(catalogUrl, readSideUrl, {
      progress(count) {
        if (performance.now() < said + PROGRESS_MS) return;
        said = performance.now();
        console.error(`audit: ${count} bookings of the read side are compared`);
      },
    });
    say(compared.violations, `the read side, ${compared.bookings} bookings`);
  }
} catch (error) {
  if (!(error instanceof ConfigError || error instanceof DatabaseError)) throw error;
  console.error(`audit: ${error.message}`);
  process.exitCode = 1;
}

function say(violations: readonly Violation[], audited: string): void {
  for (const { rule, shard, row } of violations) console.log(`${shard}: ${rule}: ${JSON.stringify(row)}`);
  const isClean = violations.length === 0;
  console.log(`${isClean ? "audit clean" : `audit failed, ${violations.length} offending rows`}: ${audited}`);
  if (!isClean) process.exitCode = 1;
}
