/**
 * A router that never lets commands gather: each is a call of its own. Behind many routers that is how nearly all commands
 * come to a node, and a single router of the usual kind cannot do it at a rate at which anything gets warm.
 */
import type { BenchCluster } from "../../cluster.ts";
import { type RouterAddress, readClusterFile } from "../../cluster-file.ts";
import { startRouter } from "../../cluster-routers.ts";
import { pin } from "../../processes.ts";
import { FRONT_CORE } from "./places.ts";

const SETTINGS = { RPC_BATCH_MAX: "1", RPC_IN_FLIGHT_MAX: "64" };

/** The same cluster, seen with such a router in the place of the first; disposed, that router ends. */
export async function withSingles(
  cluster: BenchCluster,
  signal: AbortSignal,
): Promise<{ readonly cluster: BenchCluster } & AsyncDisposable> {
  const { dataDir, secret } = cluster;
  const router = await withSettings(async () =>
    startRouter("router of single commands", { dataDir, file: readClusterFile(dataDir), secret, signal }),
  );
  pin(router.pid, FRONT_CORE);
  const address: RouterAddress = router;
  return {
    cluster: { ...cluster, router: address, routers: [address, ...cluster.routers.slice(1)] },
    [Symbol.asyncDispose]: async () => router[Symbol.asyncDispose](),
  };
}

/** Routers get the settings of this process. */
async function withSettings<T>(start: () => Promise<T>): Promise<T> {
  const before = Object.keys(SETTINGS).map((name) => [name, process.env[name]] as const);
  Object.assign(process.env, SETTINGS);
  try {
    return await start();
  } finally {
    for (const [name, value] of before) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
  }
}
