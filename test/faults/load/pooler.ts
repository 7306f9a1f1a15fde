/**
 * PgBouncer between a node and its primary. In session mode: in transaction mode it needs version 1.21, which not every system
 * has (docs/pgbouncer.md), and compose tests that one.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { delimiter, join } from "node:path";
import { canRun, runAs, type ServiceUser } from "../../../deploy/embedded/service-user.ts";
import type { ProcessSpec } from "../../../deploy/embedded/supervisor.ts";

/** The program on PATH that `user` can run; undefined when there is none. */
export function findPooler(path: string, user: ServiceUser | undefined): string | undefined {
  return path
    .split(delimiter)
    .map((directory) => join(directory, "pgbouncer"))
    .find((program) => canRun(user, program));
}

export interface PoolerPlace {
  readonly directory: string;
  readonly user: ServiceUser | undefined;
  readonly port: number;
  /** The server behind it. */
  readonly to: { readonly port: number; readonly password: string };
}

export function poolerSpec(program: string, { directory, user, port, to }: PoolerPlace): ProcessSpec {
  const [settings, users] = [join(directory, "pgbouncer.ini"), join(directory, "users.txt")];
  mkdirSync(directory);
  writeFileSync(users, `"onsale" "${to.password}"\n`);
  writeFileSync(
    settings,
    `[databases]
* = host=127.0.0.1 port=${to.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = ${users}
pool_mode = session
default_pool_size = 50
ignore_startup_parameters = statement_timeout,lock_timeout,idle_in_transaction_session_timeout,extra_float_digits
query_wait_timeout = 2
server_connect_timeout = 2
server_login_retry = 1
`,
  );
  return {
    name: "PgBouncer",
    program,
    args: [settings],
    env: {},
    runAs: runAs(user),
    channel: false,
    stopSignal: "SIGINT",
    stopMaxMs: 5_000,
    readyMaxMs: 5_000,
    isReady: () => accepts(port),
  };
}

function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    socket.on("connect", () => resolve(true)).on("error", () => resolve(false));
    socket.on("connect", () => socket.destroy());
  });
}
