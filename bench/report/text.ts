/** The report on a terminal. */
import { written } from "../figures.ts";
import { type Table, writtenCell } from "../tables.ts";
import { auditLine, machineLine, type PartResult, type Results, verdictOn } from "./results.ts";

export function textOf(results: Results): string {
  const { parts, failures, machine, date, tookSeconds } = results;
  return [
    ...(parts.length === 0 ? [] : [figuresOf(parts)]),
    ...parts.flatMap(({ tables = [] }) => tables.map(textOfTable)),
    ...parts.flatMap(({ part, notes = [] }) => notes.map((note) => `${part}: ${note}`)),
    ...parts.flatMap(({ part, problems = [] }) => problems.map((problem) => `FAILED ${part}: ${problem}`)),
    ...failures.map(({ part, reason }) => `FAILED ${part}: ${reason}`),
    [auditLine(parts), `${date}, ${tookSeconds} s, ${machineLine(machine)}`].join("\n"),
  ].join("\n\n");
}

function figuresOf(parts: readonly PartResult[]): string {
  const rows = parts.flatMap(({ part, figures }) =>
    figures.map((figure) => [
      part,
      figure.name,
      written(figure.value, figure.unit),
      figure.target?.wanted ?? "",
      verdictOn(figure),
      figure.note ?? "",
    ]),
  );
  return aligned([["part", "figure", "value", "target", "", "note"], ...rows], new Set([2]));
}

function textOfTable({ title, columns, rows, note }: Table): string {
  const numeric = columns.flatMap((_, index) =>
    rows.some((row) => typeof row[index] === "number") ? [index] : [],
  );
  const body = rows.map((row) => columns.map((column, index) => writtenCell(row[index] ?? null, column)));
  const table = aligned([columns.map(({ name }) => name), ...body], new Set(numeric));
  return [title, table, ...(note === undefined ? [] : [note])].join("\n");
}

/** Columns of the same width; those in `right` end together. */
function aligned(rows: readonly (readonly string[])[], right: ReadonlySet<number>): string {
  const widths = rows[0]?.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0))) ?? [];
  return rows
    .map((row) =>
      row
        .map((cell, column) =>
          right.has(column) ? cell.padStart(widths[column] ?? 0) : cell.padEnd(widths[column] ?? 0),
        )
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}
