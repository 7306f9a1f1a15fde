/** Figures for people (a table) and for machines (JSON, also kept in bench/results/). */
import { mkdirSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus, totalmem } from "node:os";
import { join } from "node:path";
import { type Figure, written } from "./part.ts";

export interface Machine {
  readonly cores: number;
  readonly processor: string;
  readonly memoryGigabytes: number;
  readonly system: string;
  readonly node: string;
}

export interface PartResult {
  readonly part: string;
  readonly figures: readonly Figure[];
  readonly audit: { readonly bookings: number; readonly violations: number };
}

export interface Results {
  readonly date: string;
  readonly command: string;
  readonly machine: Machine;
  readonly parts: readonly PartResult[];
}

export function thisMachine(): Machine {
  return {
    cores: availableParallelism(),
    processor: cpus()[0]?.model.trim() ?? "unknown",
    memoryGigabytes: Math.round(totalmem() / 1e9),
    system: `${process.platform} ${process.arch}`,
    node: process.version,
  };
}

/** Writes them into bench/results/ and returns the file. */
export function keepResults(results: Results): string {
  const directory = join(import.meta.dirname, "results");
  mkdirSync(directory, { recursive: true });
  const file = join(directory, `${results.date.replaceAll(":", "-")}.json`);
  writeFileSync(file, `${JSON.stringify(results, null, 2)}\n`);
  return file;
}

export function tableOf({ machine, parts, date }: Results): string {
  const rows = parts.flatMap(({ part, figures }) =>
    figures.map(({ name, value, unit, target, note = "" }) => [
      part,
      name,
      written(value, unit),
      target?.wanted ?? "",
      target === undefined ? "" : target.met ? "met" : "NOT MET",
      note,
    ]),
  );
  const table = [["part", "figure", "value", "target", "", "note"], ...rows];
  const widths =
    table[0]?.map((_, column) => Math.max(...table.map((row) => row[column]?.length ?? 0))) ?? [];
  const lines = table.map((row) => row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join("  "));
  const { cores, processor, node } = machine;
  const audits = parts.map(({ part, audit }) => `${part} ${audit.bookings.toLocaleString("en")} bookings`);
  return [
    ...lines.map((line) => line.trimEnd()),
    "",
    `audit clean: ${audits.join(", ")}`,
    `${date}, ${cores} cores (${processor}) shared by the cluster and the load, Node ${node}`,
  ].join("\n");
}
