/** Structured logs, one JSON object a line on stdout. The only door to pino. */
import { pino } from "pino";

export type Log = ReturnType<typeof createLog>;

/** Each line names the role, so that the merged logs of a cluster stay readable. */
export function createLog(role: string, level: string) {
  return pino({ level, base: { role, pid: process.pid }, timestamp: pino.stdTimeFunctions.isoTime });
}
