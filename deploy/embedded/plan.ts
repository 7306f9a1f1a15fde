/**
 * Decides every process's place and address before any process starts. DATA_DIR keeps the addresses: processes know each
 * other by them, so a restarted process needs its old one.
 */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { postgresBinaries, type PostgresBinaries } from "./binaries.ts";
import type { DataDir } from "./data-dir.ts";
import { databasesDirectory, shardsIn } from "./databases-dir.ts";
import { keptPort, routerPorts } from "./ports.ts";
import { databaseUrl } from "./postgres-server.ts";
import { findRabbitmq, type RabbitmqPlace } from "./rabbitmq-server.ts";
import { findRedis } from "./redis-server.ts";
import { ownerOf, serviceUser, type ServiceUser } from "./service-user.ts";
import type { Settings } from "./settings.ts";
import { StartError } from "./start-error.ts";

export interface ClusterPlan {
  readonly user: ServiceUser | undefined;
  readonly binaries: PostgresBinaries;
  readonly logs: string;
  readonly router: { port: number; adminPort: number; url: string; adminUrl: string };
  readonly shards: readonly ShardPlan[];
  readonly catalogUrl: string;
  /** undefined when there is to be none, or READ_SIDE_URL names one that runs. */
  readonly readSide: ReadSidePlan | undefined;
  /** undefined when PATH has no Redis, or REDIS_URL names one that runs. */
  readonly redis: { program: string; port: number } | undefined;
  /** undefined when PATH has no RabbitMQ, or AMQP_URL names one that runs. */
  readonly rabbitmq: Pick<RabbitmqPlace, "programs" | "ports" | "directory"> | undefined;
}

export interface ShardPlan {
  readonly id: string;
  readonly dataDir: string;
  readonly databases: readonly string[];
  readonly databaseUrl: string;
  readonly postgresPort: number;
  readonly node: { port: number; adminPort: number; url: string; adminUrl: string };
}

/** Its PostgreSQL server is its own: what is asked of it, and what becomes of it, is nothing to the shards. */
export interface ReadSidePlan {
  readonly dataDir: string;
  readonly databaseUrl: string;
  readonly postgresPort: number;
  readonly port: number;
  readonly adminPort: number;
  readonly url: string;
  readonly adminUrl: string;
}

/** Makes the plan, and keeps its addresses in DATA_DIR. Throws StartError when the settings cannot be met. */
export async function planCluster(settings: Settings, dataDir: DataDir, path: string): Promise<ClusterPlan> {
  const { state } = dataDir;
  const taken = new Set<number>();
  const portOf = (process: string) => keptPort(state.ports, process, taken);
  const { port, adminPort } = await routerPorts(settings, taken);
  const { user, directory } = placeDatabases(settings, dataDir);
  const binaries = postgresBinaries(user);

  const shards: ShardPlan[] = [];
  for (let number = 0; number < settings.SHARDS; number++) {
    const id = `shard-${number}`;
    const postgresPort = await portOf(`${id} postgres`);
    const [nodePort, nodeAdminPort] = [await portOf(`${id} node`), await portOf(`${id} node admin`)];
    shards.push({
      id,
      dataDir: join(directory, id),
      databases: number === 0 ? ["shard", "catalog"] : ["shard"],
      databaseUrl: databaseUrl({ port: postgresPort, password: state.postgresPassword }, "shard"),
      postgresPort,
      node: {
        port: nodePort,
        adminPort: nodeAdminPort,
        url: urlOf("127.0.0.1", nodePort),
        adminUrl: urlOf("127.0.0.1", nodeAdminPort),
      },
    });
  }
  const catalogPort = state.ports["shard-0 postgres"] ?? 0;
  const readSide =
    settings.READ_SIDE === "off" || settings.READ_SIDE_URL !== undefined
      ? undefined
      : await planReadSide(join(directory, "read-side"), state.postgresPassword, portOf);
  const program = settings.REDIS_URL === undefined ? findRedis(path, user) : undefined;
  const redis = program === undefined ? undefined : { program, port: await portOf("redis") };
  const programs = settings.AMQP_URL === undefined ? findRabbitmq(path) : undefined;
  const rabbitmq = programs && {
    programs,
    ports: {
      amqp: await portOf("rabbitmq"),
      distribution: await portOf("rabbitmq distribution"),
      epmd: await portOf("epmd"),
    },
    directory: join(directory, "rabbitmq"),
  };
  dataDir.saveState();

  const logs = join(dataDir.path, "logs");
  mkdirSync(logs, { recursive: true, mode: 0o700 });
  return {
    user,
    binaries,
    logs,
    router: { port, adminPort, url: urlOf(settings.HOST, port), adminUrl: urlOf(settings.HOST, adminPort) },
    shards,
    catalogUrl: databaseUrl({ port: catalogPort, password: state.postgresPassword }, "catalog"),
    readSide,
    redis,
    rabbitmq,
  };
}

async function planReadSide(
  dataDir: string,
  password: string,
  portOf: (process: string) => Promise<number>,
): Promise<ReadSidePlan> {
  const postgresPort = await portOf("read-side postgres");
  const [port, adminPort] = [await portOf("read-side"), await portOf("read-side admin")];
  return {
    dataDir,
    databaseUrl: databaseUrl({ port: postgresPort, password }, "read_side"),
    postgresPort,
    port,
    adminPort,
    url: urlOf("127.0.0.1", port),
    adminUrl: urlOf("127.0.0.1", adminPort),
  };
}

function placeDatabases(settings: Settings, dataDir: DataDir) {
  const chosen = serviceUser();
  const directory = databasesDirectory(dataDir, chosen);
  const present = shardsIn(directory);
  if (present > settings.SHARDS) {
    throw new StartError(
      `SHARDS is ${settings.SHARDS}, but ${dataDir.path} holds ${present} shards whose events must stay reachable; ` +
        `set SHARDS to ${present} or more`,
    );
  }
  return { user: ownerOf(directory, chosen), directory };
}

/** The host under which this machine reaches a server that listens on `host`. */
function urlOf(host: string, port: number): string {
  if (host === "0.0.0.0") return `http://127.0.0.1:${port}`;
  if (host === "::") return `http://[::1]:${port}`;
  return host.includes(":") ? `http://[${host}]:${port}` : `http://${host}:${port}`;
}
