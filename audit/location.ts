/** Finds the catalog: CATALOG_URL if it is set, else the one that `npm start` runs from DATA_DIR. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { ConfigError, readConfig } from "../shared/process/config.ts";
import { postgresUrl } from "../shared/database/url.ts";

const settings = z.object({
  CATALOG_URL: postgresUrl.optional(),
  DATA_DIR: z.string().default(".onsale"),
});
const clusterFile = z.object({ catalogUrl: z.string() });

/** The catalog's URL. Throws ConfigError when there is none. */
export function findCatalog(env: Readonly<Record<string, string | undefined>>): string {
  const { CATALOG_URL, DATA_DIR } = readConfig(settings, env);
  if (CATALOG_URL !== undefined) return CATALOG_URL;
  const file = join(DATA_DIR, "cluster.json");
  if (!existsSync(file)) {
    throw new ConfigError(`no cluster found: set CATALOG_URL, or run npm start first (there is no ${file})`);
  }
  return clusterFile.parse(JSON.parse(readFileSync(file, "utf8"))).catalogUrl;
}
