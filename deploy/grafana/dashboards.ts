/** All dashboards, and the text of their files. */
import { onSale } from "./on-sale.ts";
import { buildDashboard, type DashboardSpec } from "./panels.ts";
import { routersAndCache } from "./routers-and-cache.ts";
import { shards } from "./shards.ts";

export const DASHBOARDS: readonly DashboardSpec[] = [onSale, shards, routersAndCache];

/** The name and the text of a dashboard's file. */
export function fileOf(dashboard: DashboardSpec): { name: string; text: string } {
  return {
    name: `${dashboard.uid}.json`,
    text: `${JSON.stringify(buildDashboard(dashboard), null, 2)}\n`,
  };
}
