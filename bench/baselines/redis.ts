/** The Redis of a baseline. */
import { Redis } from "ioredis";
import { findRedis } from "../../deploy/embedded/redis-server.ts";
import { chooseFreePort } from "../../deploy/embedded/ports.ts";
import { type Program, startProgram } from "./program.ts";

/** What Redis keeps on disk: nothing, or a log of commands that is flushed once a second. */
export type RedisDurability = "appendonly no" | "appendfsync everysec";

export interface RedisServer extends AsyncDisposable {
  readonly url: string;
  readonly pid: number;
  /** Sends SIGKILL; resolves when Redis has ended. */
  kill(): Promise<void>;
  /** Starts Redis again, at the same address and with the data that it left. */
  restart(): Promise<void>;
}

export function findRedisServer(): string | undefined {
  return findRedis(process.env["PATH"] ?? "", undefined);
}

/** Starts a Redis on a free port, with its data in `directory`. Throws when it does not become ready. */
export async function startRedis(options: {
  directory: string;
  durability: RedisDurability;
  core: number | undefined;
  signal: AbortSignal;
}): Promise<RedisServer> {
  const { directory, durability, core, signal } = options;
  const program = findRedisServer();
  if (program === undefined) throw new Error("there is no redis-server on PATH");
  const port = await chooseFreePort(new Set());
  const log = durability === "appendonly no" ? "no" : "yes";
  const flags = {
    bind: "127.0.0.1",
    port: String(port),
    dir: directory,
    save: "",
    appendonly: log,
    appendfsync: "everysec",
  };
  const command = [program, ...Object.entries(flags).flatMap(([name, value]) => [`--${name}`, value])];
  const start = async () =>
    startProgram({
      name: "redis",
      command: command as [string, ...string[]],
      env: {},
      directory,
      core,
      signal,
      isReady: async () => answersPing(port),
    });
  let running: Program = await start();
  return {
    url: `redis://127.0.0.1:${port}`,
    get pid() {
      return running.pid;
    },
    kill: async () => running.kill(),
    async restart() {
      running = await start();
    },
    [Symbol.asyncDispose]: async () => running[Symbol.asyncDispose](),
  };
}

/** Also false while Redis still reads its data. */
async function answersPing(port: number): Promise<boolean> {
  // Without the client's own check, which waits for a second while Redis reads its data.
  const options = { lazyConnect: true, enableReadyCheck: false, retryStrategy: () => null };
  const redis = new Redis({ host: "127.0.0.1", port, ...options });
  redis.on("error", () => undefined);
  try {
    await redis.connect();
    return (await redis.ping()) === "PONG";
  } catch {
    return false;
  } finally {
    redis.disconnect();
  }
}
