/** A primary with a replica that follows it by streaming, both real servers on 127.0.0.1. */
import { randomUUID } from "node:crypto";
import { rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startPostgresServer, type PostgresServer } from "../../deploy/embedded/postgres-server.ts";
import { startStandbyServer } from "../../deploy/embedded/standby-server.ts";
import { migrate } from "../../migrations/runner.ts";
import { administer, connectTo } from "./databases.ts";
import { eventually } from "./eventually.ts";

const PASSWORD = "throw-away";

export interface ReplicatedServer extends AsyncDisposable {
  readonly primary: PostgresServer;
  readonly replica: PostgresServer;
  /** Both servers in one URL without a database, ending in a slash. */
  readonly url: string;
  /** Makes the replica a primary of its own. */
  promote(): Promise<void>;
  /** Kills the primary with all its children, as a power cut would. */
  killPrimary(): Promise<void>;
  /** Starts the server that was the primary again: it takes itself for one still. */
  reviveFormerPrimary(): Promise<void>;
}

/** Both hold a migrated `shard_template`, which tests clone. */
export async function startReplicatedServer(): Promise<ReplicatedServer> {
  const parent = join(tmpdir(), `onsale-replicas-${randomUUID()}`);
  const started: PostgresServer[] = [];
  const startPrimary = async (port?: number): Promise<PostgresServer> => {
    const server = await startPostgresServer({
      dataDir: join(parent, "primary"),
      password: PASSWORD,
      databases: ["shard_template"],
      ...(port === undefined ? {} : { port }),
    });
    started.push(server);
    return server;
  };

  const primary = await startPrimary();
  await migrate(primary.url("shard_template"), "shard");
  // A throw-away server answers before it has written its log, and only what is written is replicated.
  await administer(primary.url(""), "alter role onsale set synchronous_commit = on");
  const replica = await startStandbyServer({
    url: primary.url("postgres"),
    password: PASSWORD,
    dataDir: join(parent, "replica"),
    durable: false,
  });
  started.push(replica);
  const url = primary.url("").replace(/:(\d+)\/$/, `:$1,127.0.0.1:${replica.port}/`);
  await replicated(primary, replica);

  return {
    primary,
    replica,
    url,
    promote: async () => administer(replica.url(""), "select pg_promote()"),
    async killPrimary() {
      process.kill(primary.pid, "SIGKILL");
      // Its children let go of its port and memory a moment after it.
      await eventually("the primary is gone", async () =>
        administer(primary.url(""), "select").then(
          () => false,
          () => true,
        ),
      );
    },
    async reviveFormerPrimary() {
      await eventually("the former primary is back", async () =>
        startPrimary(primary.port).catch(() => undefined),
      );
    },
    async [Symbol.asyncDispose]() {
      for (const server of started.toReversed()) await server.stop();
      rmSync(parent, { recursive: true, force: true });
    },
  };
}

/** Resolves when the replica has replayed all that the primary has written. */
export async function replicated(primary: PostgresServer, replica: PostgresServer): Promise<void> {
  const [{ lsn } = { lsn: "" }] = await rows<{ lsn: string }>(
    primary.url("postgres"),
    "select pg_current_wal_flush_lsn()::text as lsn",
  );
  await eventually("the replica has caught up", async () => {
    const [answer] = await rows<{ reached: boolean }>(
      replica.url("postgres"),
      `select pg_last_wal_replay_lsn() >= '${lsn}'::pg_lsn as reached`,
    ).catch(() => []);
    return answer?.reached;
  });
}

async function rows<Row extends object>(url: string, statement: string): Promise<Row[]> {
  using connection = connectTo(url);
  return await connection.run<Row>(statement);
}
