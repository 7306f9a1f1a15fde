/**
 * Values travel to PostgreSQL and back as text. The driver would convert a value by its parameter's type: text for a json
 * parameter would become JSON once more, and "true" for a boolean would become false. PostgreSQL itself reads text as any
 * type.
 */

/** In the form of the driver (`postgres.PostgresType`). */
interface ColumnType {
  readonly to: number;
  readonly from: number[];
  readonly serialize: (text: unknown) => unknown;
  readonly parse: (text: string) => unknown;
}

/** How PostgreSQL reads a value (manual, chapter 8). An object becomes JSON, an array an array. */
export function textOf(value: unknown): string | null {
  if (value === null || value === undefined) return null;
  if (typeof value === "string") return value;
  if (Array.isArray(value)) return `{${value.map(elementOf).join(",")}}`;
  if (value instanceof Date) return value.toISOString();
  return typeof value === "object" ? JSON.stringify(value) : String(value as number | bigint | boolean);
}

/** What columns of a result become, by the number of their type (pg_type.dat). Columns of other types stay text. */
export const TYPES: Record<string, ColumnType> = {
  boolean: type([16], (text) => text === "t"),
  number: type([23, 21, 26, 700, 701], Number),
  json: type([114, 3802], JSON.parse),
  date: type([1184, 1114, 1082], (text) => new Date(text)),
  numbers: type([1007, 1005], (text) =>
    elementsIn(text).map((each) => (each === null ? null : Number(each))),
  ),
  texts: type([1009, 2951], elementsIn),
};

function type(numbers: [number, ...number[]], parse: (text: string) => unknown): ColumnType {
  return { to: numbers[0], from: numbers, serialize: (text) => text, parse };
}

function elementOf(element: unknown): string {
  const text = textOf(element);
  if (text === null) return "NULL";
  return Array.isArray(element) ? text : `"${text.replace(/["\\]/g, "\\$&")}"`;
}

/** The elements of an array with one dimension (manual §8.15.6). */
function elementsIn(text: string): (string | null)[] {
  const elements = text.slice(1, -1).matchAll(/"((?:[^"\\]|\\.)*)"|[^,]+/gs);
  return Array.from(elements, ([whole, quoted]) =>
    quoted !== undefined ? quoted.replace(/\\(.)/gs, "$1") : whole === "NULL" ? null : whole,
  );
}
