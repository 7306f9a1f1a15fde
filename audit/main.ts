/** `npm run audit`: checks the rules in all shards. Exit 0 when all hold, else 1 with the rows that break one. */
import { ConfigError } from "../shared/process/config.ts";
import { DatabaseError } from "../shared/database/database.ts";
import { audit } from "./audit.ts";
import { findCatalog } from "./location.ts";

try {
  const report = await audit(findCatalog(process.env));
  for (const { rule, shard, row } of report.violations)
    console.log(`${shard}: ${rule}: ${JSON.stringify(row)}`);
  const { shards, events, bookings, ticketsSold, violations } = report;
  const verdict =
    violations.length === 0 ? "audit clean" : `audit failed, ${violations.length} offending rows`;
  console.log(
    `${verdict}: ${shards} shards, ${events} events, ${bookings} bookings, ${ticketsSold} tickets sold`,
  );
  process.exitCode = violations.length === 0 ? 0 : 1;
} catch (error) {
  if (!(error instanceof ConfigError || error instanceof DatabaseError)) throw error;
  console.error(`audit: ${error.message}`);
  process.exitCode = 1;
}
