/** The parts of the read side, put together. */
import { hostname } from "node:os";
import { createHash } from "node:crypto";
import type { ShardId } from "../shared/domain/ids.ts";
import { systemClock } from "../shared/process/clock.ts";
import { drain, listen } from "../shared/process/http-server.ts";
import type { Running } from "../shared/process/lifecycle.ts";
import { createLog } from "../shared/process/log.ts";
import { Outage } from "../shared/process/outage.ts";
import { DRAINING, startAdminServer } from "../shared/watch/admin-server.ts";
import { createRegistry } from "../shared/watch/metrics.ts";
import { startTracing } from "../shared/watch/start-tracing.ts";
import { Nodes } from "../shared/wire/nodes.ts";
import { Answers } from "./answers.ts";
import type { ReadSideConfig, RebuildConfig } from "./config.ts";
import { createDatabases, writingDatabase } from "./databases.ts";
import { Arrivals } from "./follow/arrivals.ts";
import { rebuild } from "./follow/rebuild.ts";
import { Upkeep } from "./follow/upkeep.ts";
import { createReadSideMetrics } from "./metrics.ts";
import { createReadSideServer } from "./rpc.ts";
import { asOfAll } from "./views/questions.ts";

/** Of each node: one call that follows and one that fills, and as many more. */
const NODE_CONNECTIONS = 4;

export interface RunningReadSide extends Running {
  readonly url: string;
  readonly adminUrl: string;
}

/** Starts the read side. It answers as soon as its tables are filled, and goes on trying while they cannot be. */
export async function startReadSide(config: ReadSideConfig): Promise<RunningReadSide> {
  const log = createLog("read-side", config.LOG_LEVEL);
  const registry = createRegistry();
  const metrics = createReadSideMetrics(registry);
  const tracing = await startTracing(config, { name: "onsale-read-side", attributes: {} }, log, registry);
  const databases = createDatabases(config, metrics);
  const nodes = nodesOf(config, log);
  const arrivals = new Arrivals(config.WAITERS_MAX);
  const lagMaxMs = config.READ_SIDE_LAG_MAX_SECONDS * 1000;
  const upkeep = new Upkeep({
    databaseUrl: config.DATABASE_URL,
    database: databases.writing,
    checks: databases.checks,
    nodes,
    name: nameOf(config.PORT),
    arrivals,
    applied: (changes) => {
      const now = systemClock.now();
      for (const { at } of changes) metrics.fresh(Math.max(0, (now - Date.parse(at)) / 1000));
    },
    log,
  });
  const outage = new Outage(log, "answering from the database");
  const answers = new Answers({
    ...databases,
    arrivals,
    shards: () => nodes.map?.owning ?? [],
    lagMaxMs,
    exportsMax: config.EXPORTS_MAX,
    exportMaxMs: config.EXPORT_MAX_SECONDS * 1000,
    shed: metrics.shed,
    failed: (error) => outage.failed(error),
    worked: () => outage.worked(),
  });
  const shards = (): Iterable<ShardId> => nodes.map?.owning ?? [];
  metrics.watch({ upkeep, arrivals, answers, shards, databases: databases.all });
  const internalTokens = [config.INTERNAL_TOKEN, config.INTERNAL_TOKEN_PREVIOUS ?? []].flat();
  const server = createReadSideServer(answers, { internalTokens, metrics, log, tracing });
  const url = await listen(server, { host: config.HOST, port: config.PORT });
  upkeep.start();

  let draining = false;
  const unready = (): string | undefined => {
    if (draining) return DRAINING;
    const { found } = upkeep;
    const problem = upkeep.unready ?? (nodes.map === undefined ? nodes.unready : undefined);
    if (problem !== undefined || found === undefined) return problem;
    const now = new Date(systemClock.now());
    const asOf = asOfAll({ ...found, now }, shards());
    if (asOf === undefined) return "not every shard is whole yet";
    return now.getTime() - asOf > lagMaxMs
      ? `everything is in up to ${new Date(asOf).toISOString()} only`
      : undefined;
  };
  const admin = await startAdminServer({
    host: config.ADMIN_HOST ?? config.HOST,
    port: config.ADMIN_PORT,
    registry,
    unready,
  });
  log.info({ url, adminUrl: admin.url }, "serving");

  return {
    url,
    adminUrl: admin.url,
    async close() {
      draining = true;
      await drain(server, config.DRAIN_GRACE_MS);
      await upkeep.stop();
      await nodes.close();
      await tracing?.close();
      await Promise.all([databases.close(), admin.close()]);
    },
  };
}

/** Rebuilds the tables, whatever is there, and resolves when the new ones serve. */
export async function rebuildOnce(config: RebuildConfig): Promise<void> {
  const log = createLog("read-side", config.LOG_LEVEL);
  const nodes = nodesOf(config, log);
  const database = writingDatabase(config);
  try {
    const parts = { databaseUrl: config.DATABASE_URL, database, nodes, name: "read-side-rebuild", log };
    const isDone = await rebuild(parts, () => true, new AbortController().signal);
    if (!isDone) throw new Error("the new tables could not be filled to the end; run it again");
  } finally {
    await Promise.all([nodes.close(), database.close()]);
  }
}

function nodesOf(config: RebuildConfig, log: ReturnType<typeof createLog>): Nodes {
  return new Nodes({
    seedUrls: config.NODE_URLS,
    internalToken: config.INTERNAL_TOKEN,
    connections: NODE_CONNECTIONS,
    log,
  });
}

/** By which nodes know this follower: the same after a restart, another one for each process. */
function nameOf(port: number): string {
  const place = createHash("sha256").update(`${hostname()}:${port}`).digest("hex");
  return `read-side-${place.slice(0, 12)}`;
}
