/** `npm run dashboards`: writes the files that Grafana reads (provisioning/). Run it after a change of a dashboard. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DASHBOARDS, fileOf } from "./dashboards.ts";

const directory = join(import.meta.dirname, "dashboards");
mkdirSync(directory, { recursive: true });
for (const dashboard of DASHBOARDS) {
  const { name, text } = fileOf(dashboard);
  writeFileSync(join(directory, name), text);
  console.log(`wrote deploy/grafana/dashboards/${name}`);
}
