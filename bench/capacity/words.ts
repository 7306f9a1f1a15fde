/** Numbers of the capacity part as people read them. */
import type { Estimate } from "./costs.ts";

export function percent(share: number): string {
  return `${Math.round(share * 100)} %`;
}

/** Three digits that say something. */
export function short(value: number): string {
  if (!Number.isFinite(value)) return "none is enough";
  return value >= 100 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));
}

export function range({ low, high }: Estimate): string {
  return `${short(low)} to ${short(high)} in single rounds`;
}
