/** Finds the catalog and the read side: the environment says where, or what `npm start` keeps in DATA_DIR. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { ConfigError, readConfig } from "../shared/process/config.ts";
import { postgresUrl } from "../shared/database/url.ts";

type Environment = Readonly<Record<string, string | undefined>>;

const settings = z.object({
  CATALOG_URL: postgresUrl.optional(),
  READ_SIDE_DATABASE_URL: postgresUrl.optional(),
  DATA_DIR: z.string().default(".onsale"),
});
const clusterFile = z.object({
  catalogUrl: z.string(),
  readSide: z.object({ databaseUrl: z.string() }).nullish(),
});

/** The URLs of the catalog and of the read side's database, if there is one. Throws ConfigError when there is no catalog. */
export function findCluster(env: Environment): { catalogUrl: string; readSideUrl: string | undefined } {
  const { CATALOG_URL, READ_SIDE_DATABASE_URL, DATA_DIR } = readConfig(settings, env);
  if (CATALOG_URL !== undefined) return { catalogUrl: CATALOG_URL, readSideUrl: READ_SIDE_DATABASE_URL };
  const file = join(DATA_DIR, "cluster.json");
  if (!existsSync(file)) {
    throw new ConfigError(`no cluster found: set CATALOG_URL, or run npm start first (there is no ${file})`);
  }
  const { catalogUrl, readSide } = clusterFile.parse(JSON.parse(readFileSync(file, "utf8")));
  return { catalogUrl, readSideUrl: READ_SIDE_DATABASE_URL ?? readSide?.databaseUrl };
}
