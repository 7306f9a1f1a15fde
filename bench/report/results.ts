/** What a run of the benchmark found out, as it is kept: figures with what made them. */
import { availableParallelism, cpus, loadavg, totalmem } from "node:os";
import type { Figure } from "../figures.ts";
import type { Outcome } from "../part.ts";

export interface Machine {
  readonly cores: number;
  readonly processor: string;
  readonly memoryGigabytes: number;
  readonly system: string;
  readonly node: string;
  /** The load average of the minute before the run; above 0.3 another program was at work. */
  readonly loadBefore: number;
}

export interface PartResult extends Outcome {
  readonly part: string;
  readonly title: string;
  readonly secondsAMeasurement: number;
  readonly tookSeconds: number;
  /** Bookings that the audit at the end read; undefined where the part had no cluster of its own. */
  readonly auditedBookings?: number;
}

/** A part that gave no figures. */
export interface Failure {
  readonly part: string;
  readonly reason: string;
}

export interface Results {
  /** When it began, ISO 8601. */
  readonly date: string;
  readonly command: string;
  readonly machine: Machine;
  readonly tookSeconds: number;
  readonly parts: readonly PartResult[];
  readonly failures: readonly Failure[];
}

export function thisMachine(): Machine {
  return {
    cores: availableParallelism(),
    processor: cpus()[0]?.model.trim() ?? "unknown",
    memoryGigabytes: Math.round(totalmem() / 1e9),
    system: `${process.platform} ${process.arch}`,
    node: process.version,
    loadBefore: Math.round((loadavg()[0] ?? 0) * 100) / 100,
  };
}

/** "met", "NOT MET", or nothing where there is no target. */
export function verdictOn({ target }: Figure): "met" | "NOT MET" | "" {
  if (target === undefined) return "";
  return target.met ? "met" : "NOT MET";
}

/** One line on what was measured where. */
export function machineLine({
  cores,
  processor,
  memoryGigabytes,
  system,
  node,
  loadBefore,
}: Machine): string {
  return `${cores} cores (${processor}) shared by servers and load, ${memoryGigabytes} GB, ${system}, Node ${node}, load average ${loadBefore} before`;
}

/** What each audit went through. */
export function auditLine(parts: readonly PartResult[]): string {
  const audits = parts.flatMap(({ part, auditedBookings }) =>
    auditedBookings === undefined ? [] : [`${part} ${auditedBookings.toLocaleString("en")} bookings`],
  );
  return audits.length === 0 ? "nothing to audit" : `audit clean: ${audits.join(", ")}`;
}
