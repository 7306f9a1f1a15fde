/** The optional Redis, used if installed. It is a cache: nothing on disk, and when full it evicts what was used least recently. */
import { existsSync } from "node:fs";
import { connect } from "node:net";
import { delimiter, join } from "node:path";
import { canRun, runAs, type ServiceUser } from "./service-user.ts";
import type { ProcessSpec } from "./supervisor.ts";

const NAMES = ["redis-server", "valkey-server"];
const ANSWER_MAX_MS = 1_000;

export interface RedisPlace {
  readonly port: number;
  readonly password: string;
  readonly user: ServiceUser | undefined;
  readonly logFile: string;
}

/** Redis or Valkey, the first on PATH that `user` can run. */
export function findRedis(path: string, user: ServiceUser | undefined): string | undefined {
  return NAMES.flatMap((name) => path.split(delimiter).map((directory) => join(directory, name))).find(
    (program) => existsSync(program) && canRun(user, program),
  );
}

export function redisUrl({ port, password }: { port: number; password: string }): string {
  return `redis://:${password}@127.0.0.1:${port}`;
}

export function redisSpec(program: string, { port, password, user, logFile }: RedisPlace): ProcessSpec {
  const settings = [
    "bind 127.0.0.1",
    `port ${port}`,
    `requirepass ${password}`,
    'save ""',
    "appendonly no",
    "maxmemory 128mb",
    "maxmemory-policy allkeys-lru",
  ];
  return {
    name: "redis",
    program,
    args: ["-"], // settings come on standard input: a command line would show the password to every user
    input: `${settings.join("\n")}\n`,
    env: {},
    runAs: runAs(user),
    logFile,
    channel: false,
    stopSignal: "SIGTERM",
    stopMaxMs: 5_000,
    readyMaxMs: 5_000,
    isReady: () => answers(port, password),
  };
}

/** Whether it answers a PING. */
function answers(port: number, password: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: "127.0.0.1", timeout: ANSWER_MAX_MS });
    let answer = "";
    socket.on("connect", () => socket.write(`AUTH ${password}\r\nPING\r\n`));
    socket.on("data", (chunk) => {
      answer += chunk.toString();
      if (answer.includes("+PONG")) socket.destroy();
    });
    socket.on("timeout", () => socket.destroy());
    socket.on("error", () => {}); // not listening yet
    socket.on("close", () => resolve(answer.includes("+PONG")));
  });
}
