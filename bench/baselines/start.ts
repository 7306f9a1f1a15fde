/** Starts a baseline with everything that it needs but PostgreSQL, and ends all of that with it. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Child, startChild } from "./child.ts";
import type { Contender, ContenderProcess } from "./contender.ts";
import { createBaselineDatabase } from "./database.ts";
import { findRabbitmqServer, type RabbitmqServer, startRabbitmq } from "./rabbitmq.ts";
import { findRedisServer, type RedisDurability, type RedisServer, startRedis } from "./redis.ts";
import type { ServiceSettings } from "./service.ts";
import { STRATEGIES } from "./strategies/all.ts";
import { BASELINE_NAMES, type BaselineName, type OutsideProgram } from "./strategy.ts";

export type { BaselineName } from "./strategy.ts";

export const BASELINES: readonly {
  readonly name: BaselineName;
  readonly title: string;
  readonly needs: readonly OutsideProgram[];
}[] = BASELINE_NAMES.map((name) => {
  const { title, needs } = STRATEGIES[name];
  return { name, title, needs };
});

const PROGRAMS: Readonly<Record<OutsideProgram, { find(): string | undefined; install: string }>> = {
  "redis-server": { find: findRedisServer, install: "apt-get install redis-server" },
  "rabbitmq-server": { find: findRabbitmqServer, install: "apt-get install rabbitmq-server" },
};

/** The outside programs that a baseline needs and this machine lacks, each with how to install it. */
export function missingPrograms(name: BaselineName): readonly string[] {
  return STRATEGIES[name].needs
    .filter((program) => PROGRAMS[program].find() === undefined)
    .map((program) => `${program} (${PROGRAMS[program].install})`);
}

export interface BaselineOptions {
  /** The URL of the server with user and password, without a database; it ends with a slash. */
  readonly postgresServerUrl: string;
  /** Signs the tokens (HS256). */
  readonly secret: string;
  /** Aborts the start. Disposing ends whatever already runs. */
  readonly signal: AbortSignal;
  /** Keeps all processes on one core, where the system can. */
  readonly core?: number;
  /** Connections of the pool that decides bookings, in place of the strategy's own choice. */
  readonly connectionsMax?: number;
  /** For redis-counter. Its default is what its advocates use. */
  readonly redisDurability?: RedisDurability;
  /** The parent of the temporary directory; by default the one of the system. */
  readonly temporaryIn?: string;
}

export interface Baseline extends Contender {
  readonly databaseUrl: string;
  /** The Redis of the baseline, if it has one. */
  readonly redis: RedisServer | undefined;
}

/** Starts a baseline in a fresh database and waits until it is ready. Throws when a part does not become ready. */
export async function startBaseline(name: BaselineName, options: BaselineOptions): Promise<Baseline> {
  const { postgresServerUrl, secret, signal, core } = options;
  const { title, schema, needs, worker } = STRATEGIES[name];
  await using started = new AsyncDisposableStack();

  const directory = mkdtempSync(join(options.temporaryIn ?? tmpdir(), "onsale-baseline-"));
  started.defer(() => rmSync(directory, { recursive: true, force: true }));
  // The number keeps two runs apart that start on one server at the same time.
  const database = started.use(
    await createBaselineDatabase(
      postgresServerUrl,
      `onsale_baseline_${name.replaceAll("-", "_")}_${process.pid}`,
      schema,
    ),
  );
  const place = { directory, core, signal };
  const durability =
    name === "redis-counter" ? (options.redisDurability ?? "appendfsync everysec") : "appendonly no";
  const redis = needs.includes("redis-server")
    ? started.use(await startRedis({ ...place, durability }))
    : undefined;
  const rabbitmq = needs.includes("rabbitmq-server") ? started.use(await startRabbitmq(place)) : undefined;
  const settings: ServiceSettings = {
    name,
    secret,
    databaseUrl: database.url,
    connectionsMax: options.connectionsMax,
    redisUrl: redis?.url ?? "",
    amqpUrl: rabbitmq?.amqpUrl ?? "",
  };
  const script = worker === undefined ? undefined : `strategies/${worker.script}`;
  const workerProcess =
    script === undefined ? undefined : started.use(await startChild(script, settings, { signal, core }));
  const server = started.use(await startChild("server.ts", settings, { signal, core }));

  const all = started.move();
  return {
    name,
    title,
    url: server.url,
    databaseUrl: database.url,
    redis,
    get processes() {
      return processesOf({ server, workerProcess, redis, rabbitmq, workerName: worker?.name ?? "" });
    },
    async createEvents(events) {
      await database.insertEvents(events);
      await server.ask({ kind: "created", eventIds: events.map(({ id }) => id) });
    },
    settle: async () => void (await server.ask({ kind: "settle" })),
    stats: async () => server.ask({ kind: "stats" }),
    audit: async () => database.audit(),
    [Symbol.asyncDispose]: async () => all.disposeAsync(),
  };
}

function processesOf(parts: {
  server: Child;
  workerProcess: Child | undefined;
  workerName: string;
  redis: RedisServer | undefined;
  rabbitmq: RabbitmqServer | undefined;
}): ContenderProcess[] {
  const { server, workerProcess, workerName, redis, rabbitmq } = parts;
  return [
    { name: "http", pid: server.pid },
    ...(workerProcess === undefined ? [] : [{ name: workerName, pid: workerProcess.pid }]),
    ...(redis === undefined ? [] : [{ name: "redis", pid: redis.pid }]),
    ...(rabbitmq === undefined
      ? []
      : [
          { name: "rabbitmq", pid: rabbitmq.pid },
          { name: "epmd", pid: rabbitmq.epmdPid },
        ]),
  ];
}
