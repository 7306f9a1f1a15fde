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

const password = "throw-away";

export type ReplicatedServer = Awaited<ReturnType<typeof startReplicatedServer>>;

/** Both hold a migrated `shard_template`, which tests clone. */
export async function startReplicatedServer() {
  const parent = join(tmpdir(), `onsale-replicas-${randomUUID()}`);
  const [dataDir, databases] = [join(parent, "primary"), ["shard_template"]];
  const primary = await startPostgresServer({ dataDir, password, databases });
  await migrate(primary.url("shard_template"), "shard");
  // A throw-away server answers before it has written its log, and only what is written is replicated.
  await administer(primary.url(""), "alter role onsale set synchronous_commit = on");
  const url = primary.url("postgres");
  const replica = await startStandbyServer({
    url,
    password,
    dataDir: join(parent, "replica"),
    durable: false,
  });
  const started = [primary, replica];
  await replicated(primary, replica);

  return {
    primary,
    replica,
    /** Both servers in one URL without a database, ending in a slash. */
    url: primary.url("").replace(/:(\d+)\/$/, `:$1,127.0.0.1:${replica.port}/`),
    /** Makes the replica a primary of its own. */
    promote: async () => administer(replica.url(""), "select pg_promote()"),
    /** Kills the primary with all its children, as a power cut would. */
    async killPrimary() {
      process.kill(primary.pid, "SIGKILL");
      // Its children let go of its port and memory a moment after it.
      const ask = async () => Promise.allSettled([administer(primary.url(""), "select")]);
      await eventually("the primary is gone", async () => (await ask())[0].status === "rejected");
    },
    /** Starts the server that was the primary again: it takes itself for one still. */
    async reviveFormerPrimary() {
      const revive = async () => startPostgresServer({ dataDir, password, databases, port: primary.port });
      started.push(await eventually("it is back", async () => revive().catch(() => undefined)));
    },
    async [Symbol.asyncDispose]() {
      for (const server of started.toReversed()) await server.stop();
      rmSync(parent, { recursive: true, force: true });
    },
  };
}

/** Resolves when the replica has replayed all that the primary has written. */
export async function replicated(primary: PostgresServer, replica: PostgresServer): Promise<void> {
  using writer = connectTo(primary.url("postgres"));
  const [written] = await writer.run<{ lsn: string }>("select pg_current_wal_flush_lsn()::text as lsn");
  using reader = connectTo(replica.url("postgres"));
  const reached = "select where pg_last_wal_replay_lsn() >= $1::pg_lsn";
  await eventually(
    "the replica has caught up",
    async () => (await reader.run(reached, [written?.lsn])).length,
  );
}
