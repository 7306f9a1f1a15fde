/** Makes a replica of a running server, as pg_basebackup would; the embedded binaries do not include that program. */
import { appendFileSync, chownSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Database, type Statement } from "../../shared/database/database.ts";
import { type PostgresServer, prepareParent, startPostgresServer } from "./postgres-server.ts";
import { runProgram } from "./run-program.ts";
import { serviceUser } from "./service-user.ts";

/** Its name on the primary: of its replication slot, and in `synchronous_standby_names`. */
export const STANDBY_NAME = "standby";

const PLACE: Statement = {
  name: "standby-place",
  text: "select current_setting('data_directory') as directory, current_setting('port')::integer as port",
};
// From here on the primary keeps its log until the replica has it.
const RESERVE: Statement = {
  name: "standby-reserve",
  text: `select pg_create_physical_replication_slot('${STANDBY_NAME}', true)`,
};
const BEGIN: Statement = { name: "standby-begin", text: "select pg_backup_start('standby', true)" };
const END: Statement = {
  name: "standby-end",
  text: "select labelfile as label from pg_backup_stop(false)",
};
/** Files of the primary that the replica writes itself. */
const NOT_COPIED = ["postmaster.pid", "postmaster.opts", "pg_replslot", "pg_wal"];

/**
 * Copies a primary on this machine into `dataDir`, which must not exist, and starts the copy as its replica. It resolves
 * when the replica accepts connections. `url` is any database of the primary, with the superuser whose `password` is
 * given. Throws PostgreSQL's or `cp`'s message. The primary keeps the slot: tests throw both servers away together.
 */
export async function startStandbyServer(options: {
  url: string;
  password: string;
  dataDir: string;
  durable: boolean;
}): Promise<PostgresServer> {
  const { url, password, dataDir, durable } = options;
  const user = serviceUser();
  prepareParent(dataDir, user);
  // Only the session that began a backup can end it.
  const primary = new Database({ ...ONE_CONNECTION, url, applicationName: "onsale-standby" });
  try {
    const [place] = await primary.query<{ directory: string; port: number }>(PLACE);
    if (place === undefined) throw new Error("PostgreSQL does not say where its data are");
    await primary.query(RESERVE);
    await primary.query(BEGIN);
    await runProgram("copying the primary", "cp", ["-a", place.directory, dataDir], {});
    const [ended] = await primary.query<{ label: string }>(END);
    follow({ dataDir, label: ended?.label ?? "", port: place.port, password });
  } finally {
    await primary.close();
  }
  return startPostgresServer({ dataDir, password, durable });
}

function follow(options: { dataDir: string; label: string; port: number; password: string }): void {
  const { dataDir, label, port, password } = options;
  for (const name of NOT_COPIED) {
    const path = join(dataDir, name);
    if (!statSync(path).isDirectory()) rmSync(path);
    else for (const entry of readdirSync(path)) rmSync(join(path, entry), { recursive: true });
  }
  const primary = `host=127.0.0.1 port=${port} user=onsale password=${password} application_name=${STANDBY_NAME}`;
  appendFileSync(
    join(dataDir, "postgresql.auto.conf"),
    `primary_conninfo = '${primary}'\nprimary_slot_name = '${STANDBY_NAME}'\n`,
  );
  const { uid, gid } = statSync(dataDir);
  for (const [name, content] of [
    ["backup_label", label],
    ["standby.signal", ""],
  ] as const) {
    writeFileSync(join(dataDir, name), content, { mode: 0o600 });
    chownSync(join(dataDir, name), uid, gid);
  }
}

const ONE_CONNECTION = {
  connectionsMax: 1,
  waitersMax: 1,
  connectTimeoutMs: 10_000,
  statementTimeoutMs: 60_000,
  lockTimeoutMs: 10_000,
  keepsIdle: true,
};
