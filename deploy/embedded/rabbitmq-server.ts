/**
 * The optional RabbitMQ, used if installed. Everything that RabbitMQ and Erlang would share with another one on this machine is
 * set: the node's name, its ports, its directories, the cookie (in HOME) and the port mapper `epmd`, which Erlang would
 * otherwise start as a daemon that stays.
 */
import { chmodSync, chownSync, existsSync, mkdirSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { delimiter, join } from "node:path";
import { portProblem } from "./ports.ts";
import { runAs, type ServiceUser } from "./service-user.ts";
import type { ProcessSpec } from "./supervisor.ts";

const NAME = "rabbitmq-server";
/** Debian's program on PATH insists on running as the user rabbitmq; this is the one that it calls. */
const OF_DEBIAN = `/usr/lib/rabbitmq/bin/${NAME}`;
const SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin";
const ANSWER_MAX_MS = 1_000;
const READY_MAX_MS = 60_000;
const STOP_MAX_MS = 20_000;

export interface RabbitmqPrograms {
  readonly server: string;
  readonly epmd: string;
}

export interface RabbitmqPorts {
  readonly amqp: number;
  readonly distribution: number;
  readonly epmd: number;
}

export interface RabbitmqPlace {
  readonly programs: RabbitmqPrograms;
  readonly ports: RabbitmqPorts;
  readonly password: string;
  /** It is made if it is missing, for `user` alone. */
  readonly directory: string;
  readonly user: ServiceUser | undefined;
  readonly logs: string;
}

/** RabbitMQ, when `path` has it. */
export function findRabbitmq(path: string): RabbitmqPrograms | undefined {
  const onPath = first(path, NAME);
  const epmd = first(`${path}${delimiter}${SYSTEM_PATH}`, "epmd");
  if (onPath === undefined || epmd === undefined) return undefined;
  return { server: existsSync(OF_DEBIAN) ? OF_DEBIAN : onPath, epmd };
}

function first(path: string, name: string): string | undefined {
  return path
    .split(delimiter)
    .map((directory) => join(directory, name))
    .find((program) => existsSync(program));
}

export function amqpUrl({ ports, password }: Pick<RabbitmqPlace, "ports" | "password">): string {
  return `amqp://onsale:${password}@127.0.0.1:${ports.amqp}`;
}

/** Two processes. The second can start once the first is ready. */
export function rabbitmqSpecs(place: RabbitmqPlace): readonly [epmd: ProcessSpec, server: ProcessSpec] {
  const { programs, ports, user, logs, directory } = place;
  const common = {
    env: environmentOf(place),
    runAs: runAs(user),
    channel: false,
    stopSignal: "SIGTERM",
  } as const;
  return [
    {
      ...common,
      name: "epmd",
      program: programs.epmd,
      args: ["-port", String(ports.epmd), "-address", "127.0.0.1"],
      logFile: join(logs, "epmd.log"),
      stopMaxMs: 5_000,
      readyMaxMs: 5_000,
      isReady: async () => (await portProblem(ports.epmd, "127.0.0.1")) === "EADDRINUSE",
    },
    {
      ...common,
      name: "rabbitmq",
      program: programs.server,
      args: [],
      logFile: join(logs, "rabbitmq.log"),
      stopMaxMs: STOP_MAX_MS,
      readyMaxMs: READY_MAX_MS,
      prepare: () => layOut(directory, place),
      isReady: async () => speaksAmqp(ports.amqp),
    },
  ];
}

function layOut(directory: string, { ports, password, user }: RabbitmqPlace): void {
  const own = (path: string, mode: number): void => {
    chmodSync(path, mode);
    if (user !== undefined) chownSync(path, user.uid, user.gid);
  };
  for (const path of [directory, ...["home", "data", "log"].map((name) => join(directory, name))]) {
    mkdirSync(path, { recursive: true });
    own(path, 0o700);
  }
  const settings = [
    `listeners.tcp.1 = 127.0.0.1:${ports.amqp}`,
    "default_user = onsale",
    `default_pass = ${password}`,
    "vm_memory_high_watermark.absolute = 256MB",
    "disk_free_limit.absolute = 50MB",
    "log.console.level = warning",
  ];
  for (const [name, lines] of [
    ["rabbitmq.conf", settings],
    ["plugins", ["[]."]],
  ] as const) {
    writeFileSync(join(directory, name), `${lines.join("\n")}\n`, { mode: 0o600 });
    own(join(directory, name), 0o600);
  }
}

function environmentOf({ ports, directory }: RabbitmqPlace): Record<string, string> {
  const place = (name: string): string => join(directory, name);
  return {
    PATH: SYSTEM_PATH,
    HOME: place("home"),
    ERL_EPMD_PORT: String(ports.epmd),
    ERL_EPMD_ADDRESS: "127.0.0.1",
    // The data are the node's, by its name.
    RABBITMQ_NODENAME: "onsale@localhost",
    RABBITMQ_DIST_PORT: String(ports.distribution),
    RABBITMQ_MNESIA_BASE: place("data"),
    RABBITMQ_LOG_BASE: place("log"),
    RABBITMQ_LOGS: "-",
    RABBITMQ_ENABLED_PLUGINS_FILE: place("plugins"),
    RABBITMQ_CONFIG_FILE: place("rabbitmq.conf"),
    RABBITMQ_CONF_ENV_FILE: place("no-such-file"), // the machine's own settings are for the machine's own server
    // Its schedulers would spin while they wait, on cores that databases need.
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS:
      "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none",
    // Its script becomes the server itself, so that the process that is started is the one to end.
    RUNNING_UNDER_SYSTEMD: "true",
  };
}

/** Whether a server on this port begins to speak AMQP 0-9-1 (§4.2.2 there): with a frame of the type "method". */
function speaksAmqp(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: "127.0.0.1", timeout: ANSWER_MAX_MS });
    let answered = false;
    socket.on("connect", () => socket.write(Buffer.from("AMQP\0\0\u0009\u0001", "latin1")));
    socket.on("data", (chunk) => {
      answered = chunk[0] === 1;
      socket.destroy();
    });
    socket.on("timeout", () => socket.destroy());
    socket.on("error", () => {}); // not listening yet
    socket.on("close", () => resolve(answered));
  });
}
