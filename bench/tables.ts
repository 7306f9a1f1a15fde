/** A table of a part, for figures in two dimensions. Cells are values; the reports write them out. */
import { type Unit, written } from "./figures.ts";

export interface Table {
  readonly title: string;
  readonly columns: readonly Column[];
  /** As many cells a row as there are columns; null where there is no value. */
  readonly rows: readonly (readonly Cell[])[];
  readonly note?: string;
}

export interface Column {
  readonly name: string;
  /** Of the numbers in it. */
  readonly unit?: Unit;
}

export type Cell = number | string | null;

/** A cell as people read it. */
export function writtenCell(cell: Cell, { unit = "count" }: Column): string {
  if (cell === null) return "–";
  return typeof cell === "string" ? cell : written(cell, unit);
}
