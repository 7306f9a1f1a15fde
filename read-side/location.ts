/** Finds the cluster for a rebuild from outside: the environment says it, or else what `npm start` keeps in DATA_DIR. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";

type Environment = Readonly<Record<string, string | undefined>>;

const clusterFile = z.object({
  readSide: z.object({ databaseUrl: z.string() }).nullable(),
  shards: z.array(z.object({ nodeUrl: z.string() })),
});
const stateFile = z.object({ internalToken: z.string() });

/** The environment, with what it leaves out of a cluster that `npm start` runs. */
export function withCluster(env: Environment): Environment {
  const directory = env["DATA_DIR"] ?? ".onsale";
  const file = join(directory, "cluster.json");
  if (env["DATABASE_URL"] !== undefined || !existsSync(file)) return env;
  const { readSide, shards } = clusterFile.parse(JSON.parse(readFileSync(file, "utf8")));
  const { internalToken } = stateFile.parse(JSON.parse(readFileSync(join(directory, "state.json"), "utf8")));
  const found = {
    DATABASE_URL: readSide?.databaseUrl,
    NODE_URLS: shards.map(({ nodeUrl }) => nodeUrl).join(","),
    INTERNAL_TOKEN: internalToken,
  };
  return { ...found, ...env };
}
