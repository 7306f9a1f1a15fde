/**
 * The RabbitMQ of a baseline, from Debian's package. Everything that RabbitMQ and Erlang would share with another one on
 * this machine is set: the node's name, its ports, its directories, the cookie (in HOME) and the port mapper `epmd`, which
 * Erlang would otherwise start as a daemon that stays.
 */
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import { connect } from "amqplib";
import { chooseFreePort, portProblem } from "../../deploy/embedded/ports.ts";
import { startProgram } from "./program.ts";

/** Not the one on PATH: that insists on running as the user rabbitmq. */
const SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server";
const SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin";

export interface RabbitmqServer extends AsyncDisposable {
  readonly amqpUrl: string;
  readonly pid: number;
  readonly epmdPid: number;
}

export function findRabbitmqServer(): string | undefined {
  return existsSync(SERVER) && findEpmd() !== undefined ? SERVER : undefined;
}

function findEpmd(): string | undefined {
  return SYSTEM_PATH.split(delimiter)
    .map((directory) => join(directory, "epmd"))
    .find((program) => existsSync(program));
}

/** Starts a RabbitMQ with its data in `directory`, in several seconds. Throws when it does not become ready. */
export async function startRabbitmq(options: {
  directory: string;
  core: number | undefined;
  signal: AbortSignal;
}): Promise<RabbitmqServer> {
  const { directory, core, signal } = options;
  const taken = new Set<number>();
  const [amqpPort, distributionPort, epmdPort] = [
    await chooseFreePort(taken),
    await chooseFreePort(taken),
    await chooseFreePort(taken),
  ];
  const amqpUrl = `amqp://guest:guest@127.0.0.1:${amqpPort}`;
  const env = environment(directory, { amqpPort, distributionPort, epmdPort });

  await using started = new AsyncDisposableStack();
  const epmd = started.use(
    await startProgram({
      name: "epmd",
      command: [findEpmd() ?? "epmd", "-port", String(epmdPort), "-address", "127.0.0.1"],
      env,
      directory,
      core,
      signal,
      isReady: async () => (await portProblem(epmdPort, "127.0.0.1")) === "EADDRINUSE",
    }),
  );
  const server = started.use(
    await startProgram({
      name: "rabbitmq",
      command: [SERVER],
      env,
      directory,
      core,
      signal,
      isReady: async () => takesConnections(amqpUrl),
    }),
  );
  const all = started.move();
  return {
    amqpUrl,
    pid: server.pid,
    epmdPid: epmd.pid,
    [Symbol.asyncDispose]: async () => all.disposeAsync(),
  };
}

function environment(
  directory: string,
  ports: { amqpPort: number; distributionPort: number; epmdPort: number },
): Record<string, string> {
  const place = (name: string) => join(directory, name);
  for (const name of ["home", "data", "log"]) mkdirSync(place(name), { recursive: true });
  writeFileSync(place("plugins"), "[].\n");
  writeFileSync(place("rabbitmq.conf"), `listeners.tcp.1 = 127.0.0.1:${ports.amqpPort}\n`);
  return {
    PATH: SYSTEM_PATH,
    HOME: place("home"),
    ERL_EPMD_PORT: String(ports.epmdPort),
    ERL_EPMD_ADDRESS: "127.0.0.1",
    RABBITMQ_NODENAME: `onsale-baseline-${ports.amqpPort}@localhost`,
    RABBITMQ_DIST_PORT: String(ports.distributionPort),
    RABBITMQ_MNESIA_BASE: place("data"),
    RABBITMQ_LOG_BASE: place("log"),
    RABBITMQ_LOGS: "-",
    RABBITMQ_ENABLED_PLUGINS_FILE: place("plugins"),
    RABBITMQ_CONFIG_FILE: place("rabbitmq.conf"),
    RABBITMQ_CONF_ENV_FILE: place("no-such-file"), // the machine's own settings are for the machine's own server
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}",
  };
}

async function takesConnections(amqpUrl: string): Promise<boolean> {
  try {
    const connection = await connect(amqpUrl);
    await connection.close();
    return true;
  } catch {
    return false;
  }
}
