/** Structured logs, one JSON object a line on stdout. The only door to pino. */
import { pino } from "pino";

export type Log = ReturnType<typeof createLog>;

/** A logger whose lines carry the role, so that the merged output of a cluster stays readable. */
export function createLog(role: string, level: string) {
  return pino({ level, base: { role, pid: process.pid }, timestamp: pino.stdTimeFunctions.isoTime });
}
