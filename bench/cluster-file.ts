/** What the embedded cluster writes into its DATA_DIR about itself: addresses, pids and the secrets of its processes. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";

const routerAddress = z.object({ url: z.string(), adminUrl: z.string(), pid: z.number() });
/** A router that answers at `url`. */
export type RouterAddress = Readonly<z.infer<typeof routerAddress>>;

const clusterFile = z.object({
  router: routerAddress,
  shards: z.array(
    z.object({
      id: z.string(),
      nodeUrl: z.string(),
      nodeAdminUrl: z.string(),
      nodePid: z.number(),
      databaseUrl: z.string(),
      postgresPid: z.number(),
    }),
  ),
  catalogUrl: z.string(),
  readSide: z.object({ adminUrl: z.string(), pid: z.number() }).nullable(),
  redisUrl: z.string().nullable(),
});
export type ClusterFile = z.infer<typeof clusterFile>;

const stateFile = z.object({
  databasesId: z.string().optional(),
  internalToken: z.string().optional(),
  jwtSecret: z.string().optional(),
});
const processesFile = z.object({ processes: z.record(z.string(), z.object({ pid: z.number() })) });

/** Written once the router has been started. Throws when it is not there. */
export function readClusterFile(dataDir: string): ClusterFile {
  return clusterFile.parse(JSON.parse(readFileSync(join(dataDir, "cluster.json"), "utf8")));
}

/** Written first; a cluster that could not even do that has nothing in it. */
export function readState(dataDir: string): z.infer<typeof stateFile> {
  const file = join(dataDir, "state.json");
  return existsSync(file) ? stateFile.parse(JSON.parse(readFileSync(file, "utf8"))) : {};
}

/** The Redis that the cluster has started, if it has. */
export function redisPidIn(dataDir: string): number | undefined {
  const file = join(dataDir, "processes.json");
  return processesFile.parse(JSON.parse(readFileSync(file, "utf8"))).processes["redis"]?.pid;
}
