/**
 * A cluster of real processes to do harm to: two shards, two routers, Redis, RabbitMQ, and a catalog on a server of its own. Between
 * every two parts is a link. Nothing starts again by itself, so a fault lasts as long as it is meant to.
 */
import { chownSync, globSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { seededRandom } from "../../../bench/random.ts";
import { postgresBinaries } from "../../../deploy/embedded/binaries.ts";
import { chooseFreePort } from "../../../deploy/embedded/ports.ts";
import {
  createDataDirectory,
  databaseUrl,
  postgresSpec,
  prepareParent,
} from "../../../deploy/embedded/postgres-server.ts";
import { amqpUrl, findRabbitmq, rabbitmqSpecs } from "../../../deploy/embedded/rabbitmq-server.ts";
import { findRedis, redisSpec, redisUrl } from "../../../deploy/embedded/redis-server.ts";
import { roleSpec } from "../../../deploy/embedded/roles.ts";
import { STANDBY_NAME, startStandbyServer } from "../../../deploy/embedded/standby-server.ts";
import { serviceUser } from "../../../deploy/embedded/service-user.ts";
import { migrate } from "../../../migrations/runner.ts";
import { settleShards } from "../../../migrations/shards.ts";
import { Connection } from "../../../shared/database/connection.ts";
import type { EventId, ShardId } from "../../../shared/domain/ids.ts";
import { SLOT_COUNT, slotOf } from "../../../shared/domain/slots.ts";
import { type BoundedDisk, boundedDisk } from "../../support/bounded-disk.ts";
import { INTERNAL_TOKEN, SECRET } from "../../support/secrets.ts";
import { Link } from "./link.ts";
import { Part } from "./part.ts";
import { findPooler, poolerSpec } from "./pooler.ts";

export const SHARDS = ["shard-0", "shard-1"] as const;
export type Shard = 0 | 1;

/** What only some faults need: a synchronous replica of shard 1, or PgBouncer between it and its node. */
export type Extra = "replica" | "pooler";

export interface LoadedCluster extends AsyncDisposable {
  readonly urls: readonly string[];
  readonly routers: readonly Part[];
  readonly nodes: readonly Part[];
  readonly databases: readonly Part[];
  /** A second node of shard 1, not started. */
  readonly spare: Part;
  /** What it was asked for beyond the rest. */
  readonly extra: Extra | undefined;
  /** Undefined where it is not installed too. */
  readonly pooler: Part | undefined;
  /** Of shard 1. After its promotion the cluster is used up. */
  readonly replica: { promote(): Promise<void> } | undefined;
  readonly redis: Part;
  /** Undefined where it is not installed. */
  readonly rabbitmq: Part | undefined;
  readonly catalog: Part;
  readonly catalogUrl: string;
  /** Past all links. */
  readonly databaseUrls: readonly string[];
  /** By the parts at its ends, as in `node 0 – PostgreSQL 0`. */
  readonly links: ReadonlyMap<string, Link>;
  /** The file system of shard 1's database has a bound, and this fills it; undefined where it cannot be had. */
  readonly disk: BoundedDisk | undefined;
  /** Sets the clock of shard 1's node ahead; undefined where libfaketime is not installed. */
  readonly setClock: ((seconds: number) => void) | undefined;
  /** What ended by itself. */
  readonly surprises: string[];
  /** Everything runs that a cluster starts with. */
  readonly isWhole: boolean;
}

const PASSWORD = "throw-away";
const DISK_BYTES = 1024 ** 3;

/** The shard of an event; slots that hold events do not move. */
export const shardOf = (eventId: string): Shard => (slotOf(eventId as EventId) < SLOT_COUNT / 2 ? 0 : 1);

export async function startLoadedCluster(seed: number, extra?: Extra): Promise<LoadedCluster> {
  await using started = new AsyncDisposableStack();
  const random = seededRandom(seed);
  const directory = mkdtempSync(join(tmpdir(), "onsale-load-"));
  started.defer(() => rmSync(directory, { recursive: true, force: true }));
  const user = serviceUser();
  if (user !== undefined) chownSync(directory, user.uid, user.gid);
  const surprises: string[] = [];
  const taken = new Set<number>();
  const logFile = join(directory, "log");

  const partOf = async (spec: ConstructorParameters<typeof Part>[0]): Promise<Part> => {
    const part = new Part(spec, (what) => surprises.push(what));
    started.defer(async () => part.stop());
    return part;
  };
  const links = new Map<string, Link>();
  const link = async (name: string, port: number): Promise<number> => {
    const made = await Link.to(port, random);
    links.set(name, started.use(made));
    return made.port;
  };
  const startDatabase = async (name: string, place: string, schema: "shard" | "catalog") => {
    const dataDir = join(directory, place, "data");
    prepareParent(dataDir, user);
    const server = { dataDir, binaries: postgresBinaries(user), user };
    await createDataDirectory(server, { password: PASSWORD, databases: [schema], durable: true });
    const port = await chooseFreePort(taken);
    const part = await partOf(postgresSpec(server, { name, port, logFile }));
    await part.start();
    const url = databaseUrl({ port, password: PASSWORD }, schema);
    await migrate(url, schema);
    return { part, port, url };
  };

  const disk = boundedDisk(join(directory, "shard-1"), DISK_BYTES);
  if (disk !== undefined) started.use(disk);
  const catalog = await startDatabase("catalog", "catalog", "catalog");
  const databases = [
    await startDatabase("PostgreSQL 0", "shard-0", "shard"),
    await startDatabase("PostgreSQL 1", "shard-1", "shard"),
  ];
  const [, second] = databases;
  const replica =
    extra === "replica" && second !== undefined ? await startReplica(second, directory, started) : undefined;
  const poolerProgram = extra === "pooler" ? findPooler(process.env["PATH"] ?? "", user) : undefined;
  const poolerPort = await chooseFreePort(taken);
  const pooler =
    poolerProgram === undefined
      ? undefined
      : await partOf(
          poolerSpec(poolerProgram, {
            directory: join(directory, "pooler"),
            user,
            port: poolerPort,
            to: { port: second?.port ?? 0, password: PASSWORD },
          }),
        );
  await pooler?.start();
  const hostsOf = (ports: readonly number[]) => ports.map((port) => `127.0.0.1:${port}`).join(",");
  const databaseUrls = databases.map(({ port, url }, shard) =>
    url.replace(
      hostsOf([port]),
      hostsOf(shard === 1 && replica !== undefined ? [port, replica.port] : [port]),
    ),
  );
  await settleShards(
    catalog.url,
    databaseUrls.map((url, shard) => ({ id: SHARDS[shard as Shard] as string as ShardId, databaseUrl: url })),
  );

  const program = findRedis(process.env["PATH"] ?? "", user);
  if (program === undefined) throw new Error("there is no redis-server or valkey-server on PATH");
  const redisPlace = { port: await chooseFreePort(taken), password: PASSWORD, user, logFile };
  const redis = await partOf(redisSpec(program, redisPlace));
  await redis.start();
  const redisThrough = async (name: string) =>
    redisUrl({ ...redisPlace, port: await link(`${name} – Redis`, redisPlace.port) });

  const rabbitmqPrograms = findRabbitmq(process.env["PATH"] ?? "");
  const rabbitmqPlace = rabbitmqPrograms && {
    programs: rabbitmqPrograms,
    ports: {
      amqp: await chooseFreePort(taken),
      distribution: await chooseFreePort(taken),
      epmd: await chooseFreePort(taken),
    },
    password: PASSWORD,
    directory: join(directory, "rabbitmq"),
    user,
    logs: directory,
  };
  let rabbitmq: Part | undefined;
  for (const spec of rabbitmqPlace === undefined ? [] : rabbitmqSpecs(rabbitmqPlace)) {
    rabbitmq = await partOf(spec);
    await rabbitmq.start();
  }

  const common = {
    PATH: process.env["PATH"],
    INTERNAL_TOKEN,
    HOST: "127.0.0.1",
    LOG_LEVEL: "warn",
    AMQP_URL: rabbitmqPlace && amqpUrl(rabbitmqPlace),
    // Less than a long fault: some requests lapse.
    QUEUE_MAX_AGE_SECONDS: "6",
    RATE_LIMIT_PER_USER: "0",
    RATE_LIMIT_PER_ORGANIZER: "0",
    RATE_LIMIT_PER_ADDRESS: "0",
  };
  const clock = fakeClock(directory);
  const nodeUrls: string[] = [];
  const nodeOf = async (name: string, shard: Shard, isClocked: boolean): Promise<Part> => {
    const [port, adminPort] = [await chooseFreePort(taken), await chooseFreePort(taken)];
    const database = databases[shard];
    const url = `http://127.0.0.1:${await link(`routers – ${name}`, port)}`;
    nodeUrls.push(url);
    const serverPort = shard === 1 && pooler !== undefined ? poolerPort : (database?.port ?? 0);
    const through = [await link(`${name} – PostgreSQL ${shard}`, serverPort)];
    if (shard === 1 && replica !== undefined) through.push(await link(`${name} – its replica`, replica.port));
    const env = {
      ...common,
      ...(isClocked ? clock?.env : {}),
      PORT: String(port),
      ADMIN_PORT: String(adminPort),
      SHARD_ID: SHARDS[shard],
      ADVERTISE_URL: url,
      DATABASE_URL: database?.url.replace(hostsOf([database.port]), hostsOf(through)),
      CATALOG_URL: catalog.url,
      REDIS_URL: await redisThrough(name),
    };
    return partOf(roleSpec("shard-node", name, `http://127.0.0.1:${adminPort}`, env));
  };
  const nodes = [await nodeOf("node 0", 0, false), await nodeOf("node 1", 1, true)];
  await Promise.all(nodes.map(async (node) => node.start()));
  const NODE_URLS = nodeUrls.join(",");
  const spare = await nodeOf("second node 1", 1, false);

  const routers: Part[] = [];
  const urls: string[] = [];
  for (const number of [0, 1]) {
    const [port, adminPort] = [await chooseFreePort(taken), await chooseFreePort(taken)];
    const name = `router ${number}`;
    const env = {
      ...common,
      PORT: String(port),
      ADMIN_PORT: String(adminPort),
      NODE_URLS,
      AUTH_JWT_SECRET: SECRET,
      REDIS_URL: await redisThrough(name),
    };
    routers.push(await partOf(roleSpec("router", name, `http://127.0.0.1:${adminPort}`, env)));
    urls.push(`http://127.0.0.1:${port}`);
  }
  await Promise.all(routers.map(async (router) => router.start()));

  const running = started.move();
  return {
    urls,
    routers,
    nodes,
    spare,
    databases: databases.map(({ part }) => part),
    databaseUrls,
    extra,
    pooler,
    replica,
    redis,
    rabbitmq,
    catalog: catalog.part,
    catalogUrl: catalog.url,
    links,
    disk,
    setClock: clock?.set,
    surprises,
    get isWhole() {
      const parts = [...routers, ...nodes, ...databases.map(({ part }) => part), redis, catalog.part];
      for (const part of [pooler, rabbitmq]) if (part !== undefined) parts.push(part);
      return parts.every((part) => part.isRunning);
    },
    [Symbol.asyncDispose]: async () => running.disposeAsync(),
  };
}

/** Follows synchronously: what the primary confirms, the replica has. */
async function startReplica(
  { url, port }: { url: string; port: number },
  directory: string,
  started: AsyncDisposableStack,
): Promise<{ port: number; promote(): Promise<void> }> {
  const server = await startStandbyServer({
    url: databaseUrl({ port, password: PASSWORD }, "postgres"),
    password: PASSWORD,
    dataDir: join(directory, "replica", "data"),
    durable: true,
  });
  started.use(server);
  await runOn(
    url,
    `alter system set synchronous_standby_names = '${STANDBY_NAME}'`,
    "select pg_reload_conf()",
  );
  return { port: server.port, promote: async () => runOn(server.url("shard"), "select pg_promote()") };
}

async function runOn(url: string, ...statements: string[]): Promise<void> {
  using connection = new Connection({ url, session: { application_name: "faults" }, statementMs: 30_000 });
  for (const statement of statements) await connection.run(statement);
}

/** libfaketime moves the time of day of one process, and leaves the monotonic clock alone, as a wrong NTP server does. */
function fakeClock(
  directory: string,
): { env: Record<string, string>; set: (seconds: number) => void } | undefined {
  const [library] = globSync("/usr/lib/*/faketime/libfaketimeMT.so.1");
  if (library === undefined) return undefined;
  const file = join(directory, "clock");
  const set = (seconds: number) => writeFileSync(file, `${seconds < 0 ? "" : "+"}${seconds}\n`);
  set(0);
  const env = {
    LD_PRELOAD: library,
    FAKETIME_TIMESTAMP_FILE: file,
    FAKETIME_CACHE_DURATION: "1",
    DONT_FAKE_MONOTONIC: "1",
  };
  return { env, set };
}
