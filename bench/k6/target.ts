/** The cluster that k6 is sent to: the one that `npm start` runs, or one of its own that ends with the run. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { audit, type AuditReport } from "../../audit/audit.ts";
import { readConfig, secret } from "../../shared/process/config.ts";
import { readClusterFile, readState } from "../cluster-file.ts";
import { startBenchCluster } from "../bench-cluster.ts";
import type { Progress } from "../progress.ts";

export interface Target extends AsyncDisposable {
  readonly routerUrl: string;
  /** Signs the tokens that it takes. */
  readonly secret: string;
  audit(): Promise<AuditReport>;
}

const settings = z.object({ AUTH_JWT_SECRET: secret.optional(), DATA_DIR: z.string().default(".onsale") });
const READY_MAX_MS = 5_000;

/** The one in DATA_DIR. Throws when none runs there. */
export async function runningCluster(env: Readonly<Record<string, string | undefined>>): Promise<Target> {
  const { AUTH_JWT_SECRET, DATA_DIR } = readConfig(settings, env);
  const advice = "start one with npm start, or add --own-cluster";
  if (!existsSync(join(DATA_DIR, "cluster.json")))
    throw new Error(`no cluster has run in DATA_DIR ${DATA_DIR}: ${advice}`);
  const { router, catalogUrl } = readClusterFile(DATA_DIR);
  if (!(await isReady(router.adminUrl)))
    throw new Error(`the cluster of DATA_DIR ${DATA_DIR} is not running or not ready: ${advice}`);
  const kept = AUTH_JWT_SECRET ?? readState(DATA_DIR).jwtSecret;
  if (kept === undefined) throw new Error(`DATA_DIR ${DATA_DIR} holds no secret: set AUTH_JWT_SECRET`);
  return {
    routerUrl: router.url,
    secret: kept,
    audit: async () => audit(catalogUrl),
    [Symbol.asyncDispose]: async () => {},
  };
}

/** A fresh one. Throws, with what it said, when it does not become ready. */
export async function ownCluster(options: { signal: AbortSignal; progress: Progress }): Promise<Target> {
  const cluster = await startBenchCluster(options);
  return {
    routerUrl: cluster.router.url,
    secret: cluster.secret,
    audit: async () => cluster.audit(),
    [Symbol.asyncDispose]: async () => cluster[Symbol.asyncDispose](),
  };
}

async function isReady(adminUrl: string): Promise<boolean> {
  try {
    return (await fetch(`${adminUrl}/readyz`, { signal: AbortSignal.timeout(READY_MAX_MS) })).ok;
  } catch {
    return false;
  }
}
