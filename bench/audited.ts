/** What stands between a run and its figures: a clean audit (M1). */
import type { AuditReport } from "../audit/audit.ts";

const ROWS_SHOWN = 20;

/** How many bookings the audit went through. Throws, with the broken rows, when it is not clean. */
export function auditedBookings({ bookings, violations }: AuditReport): number {
  if (violations.length === 0) return bookings;
  const rows = violations.slice(0, ROWS_SHOWN).map((violation) => `\n  ${JSON.stringify(violation)}`);
  throw new Error(`the audit found ${violations.length} broken rows, so no figures${rows.join("")}`);
}
