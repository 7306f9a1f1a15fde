/**
 * Starts the whole cluster: queue, Redis and databases, migrations, nodes, router and read side. It stops in the opposite order, so that each
 * process can still reach what it needs to finish its work.
 */
import { rmSync } from "node:fs";
import { join } from "node:path";
import { type DataDir, writePrivately } from "./data-dir.ts";
import { ProcessNotes } from "./leftovers.ts";
import { type ClusterPlan, planCluster } from "./plan.ts";
import { createDataDirectory, postgresSpec } from "./postgres-server.ts";
import { amqpUrl, rabbitmqSpecs } from "./rabbitmq-server.ts";
import { redisSpec, redisUrl } from "./redis-server.ts";
import { type Environment, roleSpec, scriptOf } from "./roles.ts";
import { runProgram } from "./run-program.ts";
import type { Settings } from "./settings.ts";
import { reasonOf } from "./start-error.ts";
import { type ProcessSpec, SupervisedProcess } from "./supervisor.ts";

export interface ClusterOptions {
  readonly settings: Settings;
  /** The roles get it. */
  readonly env: Environment;
  readonly dataDir: DataDir;
  /** Aborts the start at any step. */
  readonly signal: AbortSignal;
  /** Shows a step of the start. */
  readonly step: (line: string) => void;
  /** Shows a process's output, and its end. */
  readonly say: (line: string) => void;
}

/** Starts everything and resolves to the router's addresses. `running` stops what was started, also after a failed start. */
export async function startCluster(
  options: ClusterOptions,
  running: AsyncDisposableStack,
): Promise<
  ClusterPlan["router"] & {
    readonly amqpUrl: string | undefined;
    readonly readSideUrl: string | undefined;
  }
> {
  const { settings, env, dataDir, step } = options;
  rmSync(clusterFile(dataDir), { force: true }); // its pids are of an earlier start
  const notes = new ProcessNotes(dataDir.path);
  const left = await notes.endLeftovers();
  if (left.length > 0) step(`ended what an earlier start had left running: ${left.join(", ")}`);
  const plan = await planCluster(settings, dataDir, env["PATH"] ?? "");
  const cluster = new Cluster(plan, options, notes, running);
  // The queue takes several seconds. Nothing else waits for it, and a start that fails waits until it can be stopped.
  const databases = cluster.startDatabases();
  await Promise.allSettled([databases, cluster.startQueue()]);
  await databases;
  await cluster.startNodes();
  cluster.startReadSideDatabase();
  await cluster.startRouter();
  return { ...plan.router, amqpUrl: cluster.amqpUrl, readSideUrl: cluster.readSideUrl };
}

const clusterFile = (dataDir: DataDir) => join(dataDir.path, "cluster.json");

class Cluster {
  readonly #plan: ClusterPlan;
  readonly #options: ClusterOptions;
  readonly #notes: ProcessNotes;
  readonly #running: AsyncDisposableStack;
  readonly #processes = new Map<string, SupervisedProcess>();
  #redisUrl: string | undefined;
  /** undefined without a queue. */
  amqpUrl: string | undefined;

  constructor(
    plan: ClusterPlan,
    options: ClusterOptions,
    notes: ProcessNotes,
    running: AsyncDisposableStack,
  ) {
    this.#plan = plan;
    this.#options = options;
    this.#notes = notes;
    this.#running = running;
    this.#redisUrl = options.settings.REDIS_URL;
    this.amqpUrl = options.settings.AMQP_URL;
  }

  /** Never throws: without a queue, bookings are decided directly. */
  async startQueue(): Promise<void> {
    const { step, signal, dataDir } = this.#options;
    const { rabbitmq, user, logs } = this.#plan;
    if (rabbitmq === undefined) {
      if (this.amqpUrl === undefined) step("no rabbitmq-server on PATH: bookings are decided directly");
      return;
    }
    const place = { ...rabbitmq, password: dataDir.state.amqpPassword, user, logs };
    try {
      for (const spec of rabbitmqSpecs(place)) await this.#startTogether([spec]);
      this.amqpUrl = amqpUrl(place);
      step(`RabbitMQ runs on port ${rabbitmq.ports.amqp}`);
    } catch (error) {
      if (!signal.aborted) step(`RabbitMQ cannot be used, bookings are decided directly: ${reasonOf(error)}`);
    }
  }

  async startDatabases(): Promise<void> {
    await this.#startRedis();
    await this.#startPostgres();
    await this.#migrate();
  }

  async #startRedis(): Promise<void> {
    const { step, signal, dataDir } = this.#options;
    const { redis, user, logs } = this.#plan;
    if (redis === undefined) {
      if (this.#redisUrl === undefined)
        step("no redis-server or valkey-server on PATH: caching in the processes only");
      return;
    }
    const place = {
      port: redis.port,
      password: dataDir.state.redisPassword,
      user,
      logFile: join(logs, "redis.log"),
    };
    try {
      await this.#startTogether([redisSpec(redis.program, place)]);
      this.#redisUrl = redisUrl(place);
      step(`Redis runs on port ${redis.port}`);
    } catch (error) {
      signal.throwIfAborted();
      step(`Redis cannot be used, caching in the processes only: ${reasonOf(error)}`);
    }
  }

  async #startPostgres(): Promise<void> {
    const { binaries, user, shards } = this.#plan;
    const password = this.#options.dataDir.state.postgresPassword;
    await together(this.#options.signal, shards, ({ dataDir, databases }, signal) =>
      createDataDirectory({ dataDir, binaries, user }, { password, databases, durable: true, signal }),
    );
    await this.#startTogether(
      shards.map(({ id, dataDir, postgresPort }) =>
        postgresSpec(
          { dataDir, binaries, user },
          {
            name: `${id} postgres`,
            port: postgresPort,
            logFile: join(this.#plan.logs, `${id}-postgres.log`),
          },
        ),
      ),
    );
    this.#options.step(
      `PostgreSQL runs on ports ${shards.map(({ postgresPort }) => postgresPort).join(", ")}`,
    );
  }

  async #migrate(): Promise<void> {
    const { shards, catalogUrl } = this.#plan;
    const shardUrls = shards.map(({ id, databaseUrl }) => `${id}=${databaseUrl}`).join(",");
    await runProgram("migrating the databases", process.execPath, [scriptOf("migrations")], {
      env: { ...this.#options.env, CATALOG_URL: catalogUrl, SHARD_URLS: shardUrls },
      signal: this.#options.signal,
    });
    this.#options.step("databases are migrated");
  }

  async startNodes(): Promise<void> {
    const { shards, catalogUrl } = this.#plan;
    const specs = shards.map(({ id, node, databaseUrl }) =>
      roleSpec("shard-node", `${id} node`, node.adminUrl, {
        ...this.#environmentOfRoles(),
        HOST: "127.0.0.1",
        PORT: String(node.port),
        ADMIN_PORT: String(node.adminPort),
        SHARD_ID: id,
        DATABASE_URL: databaseUrl,
        CATALOG_URL: catalogUrl,
      }),
    );
    await this.#startTogether(specs);
    this.#options.step(`shard nodes run on ports ${shards.map(({ node }) => node.port).join(", ")}`);
  }

  /** undefined without a read side. */
  get readSideUrl(): string | undefined {
    return this.#plan.readSide?.url ?? this.#options.settings.READ_SIDE_URL;
  }

  /** Nobody waits for it: the read side fills its tables when it is there, and the cluster sells without. */
  startReadSideDatabase(): void {
    const { binaries, user, readSide } = this.#plan;
    if (readSide === undefined) return;
    const { say, signal, dataDir } = this.#options;
    const place = { dataDir: readSide.dataDir, binaries, user };
    const name = "read-side postgres";
    const logFile = join(this.#plan.logs, "read-side-postgres.log");
    const server = this.#process(postgresSpec(place, { name, port: readSide.postgresPort, logFile }));
    const start = async (): Promise<void> => {
      const databases = ["read_side"];
      const password = dataDir.state.postgresPassword;
      await createDataDirectory(place, { password, databases, durable: true, signal });
      await server.start(signal);
    };
    const started = start().catch((error: unknown) => {
      if (!signal.aborted) say(`the read side has no database, so it answers nothing: ${reasonOf(error)}`);
    });
    this.#running.defer(async () => {
      await started;
      await server.stop();
    });
  }

  /** The router, and beside it the read side, which is not waited for until it can answer. */
  async startRouter(): Promise<void> {
    const { settings, dataDir, step } = this.#options;
    const { router, shards, readSide } = this.#plan;
    const NODE_URLS = shards.map(({ node }) => node.url).join(",");
    const spec = roleSpec("router", "router", router.adminUrl, {
      ...this.#environmentOfRoles(),
      HOST: settings.HOST,
      PORT: String(router.port),
      ADMIN_PORT: String(router.adminPort),
      NODE_URLS,
      READ_SIDE_URL: this.readSideUrl,
      AUTH_JWT_SECRET: settings.AUTH_JWT_SECRET ?? dataDir.state.jwtSecret,
    });
    const beside =
      readSide &&
      roleSpec(
        "read-side",
        "read-side",
        readSide.adminUrl,
        {
          ...this.#environmentOfRoles(),
          HOST: "127.0.0.1",
          PORT: String(readSide.port),
          ADMIN_PORT: String(readSide.adminPort),
          DATABASE_URL: readSide.databaseUrl,
          NODE_URLS,
        },
        "alive",
      );
    await this.#startTogether(beside === undefined ? [spec] : [spec, beside]);
    step(`router runs on ${router.url}`);
    if (beside !== undefined) step(`read side runs on port ${readSide?.port}`);
  }

  #environmentOfRoles(): Environment {
    const { env, settings, dataDir } = this.#options;
    const { LOG_LEVEL } = settings;
    return {
      ...env,
      LOG_LEVEL,
      INTERNAL_TOKEN: dataDir.state.internalToken,
      REDIS_URL: this.#redisUrl,
      AMQP_URL: this.amqpUrl,
      ADMIN_HOST: undefined, // HOST is the address of both ports here
    };
  }

  /** Starts processes that do not need each other. They also stop together. */
  async #startTogether(specs: readonly ProcessSpec[]): Promise<void> {
    const tier = specs.map((spec) => this.#process(spec));
    this.#running.defer(async () => void (await Promise.all(tier.map((process) => process.stop()))));
    await together(this.#options.signal, tier, (process, signal) => process.start(signal));
  }

  #process(spec: ProcessSpec): SupervisedProcess {
    const { say } = this.#options;
    const surroundings = { notes: this.#notes, say, changed: () => this.#publish() };
    const process = new SupervisedProcess(spec, surroundings);
    this.#processes.set(spec.name, process);
    return process;
  }

  /** Writes cluster.json once every process has started. The router is not ready before that. */
  #publish(): void {
    const { router, shards, catalogUrl, readSide } = this.#plan;
    const pidOf = (name: string) => this.#processes.get(name)?.pid;
    if (pidOf("router") === undefined || (readSide !== undefined && pidOf("read-side") === undefined)) return;
    writePrivately(clusterFile(this.#options.dataDir), {
      router: { url: router.url, adminUrl: router.adminUrl, pid: pidOf("router") },
      shards: shards.map(({ id, node, databaseUrl }) => ({
        id,
        nodeUrl: node.url,
        nodeAdminUrl: node.adminUrl,
        nodePid: pidOf(`${id} node`),
        databaseUrl,
        postgresPid: pidOf(`${id} postgres`),
      })),
      catalogUrl,
      readSide:
        readSide === undefined
          ? null
          : {
              url: readSide.url,
              adminUrl: readSide.adminUrl,
              pid: pidOf("read-side"),
              databaseUrl: readSide.databaseUrl,
            },
      redisUrl: this.#redisUrl ?? null,
      amqpUrl: this.amqpUrl ?? null,
    });
  }
}

/**
 * Runs a task for every item. The first failure aborts the other tasks. Its error is thrown after all have ended, so a
 * failed start leaves no task running.
 */
async function together<Item>(
  signal: AbortSignal,
  items: readonly Item[],
  task: (item: Item, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const failure = new AbortController();
  const either = AbortSignal.any([signal, failure.signal]);
  await Promise.allSettled(
    items.map((item) => task(item, either).catch((error: unknown) => failure.abort(error))),
  );
  either.throwIfAborted();
}
