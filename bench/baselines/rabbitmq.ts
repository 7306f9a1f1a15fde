/** The RabbitMQ of a baseline: the one of `npm start` (deploy/embedded/), in a temporary directory and on one core. */
import { randomBytes } from "node:crypto";
import { chooseFreePort } from "../../deploy/embedded/ports.ts";
import { amqpUrl, findRabbitmq, rabbitmqSpecs } from "../../deploy/embedded/rabbitmq-server.ts";
import { startProgram } from "./program.ts";

const PLACES = "/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin";

export interface RabbitmqServer extends AsyncDisposable {
  readonly amqpUrl: string;
  readonly pid: number;
  readonly epmdPid: number;
  /** What its own tools need to find it. */
  readonly env: Readonly<Record<string, string>>;
}

export const findRabbitmqServer = (): string | undefined => findRabbitmq(PLACES)?.server;

/** Starts a RabbitMQ with its data in `directory`, in several seconds. Throws when it does not become ready. */
export async function startRabbitmq(options: {
  directory: string;
  core: number | undefined;
  signal: AbortSignal;
}): Promise<RabbitmqServer> {
  const { directory, core, signal } = options;
  const programs = findRabbitmq(PLACES);
  if (programs === undefined) throw new Error("there is no rabbitmq-server");
  const taken = new Set<number>();
  const ports = {
    amqp: await chooseFreePort(taken),
    distribution: await chooseFreePort(taken),
    epmd: await chooseFreePort(taken),
  };
  const password = randomBytes(24).toString("base64url");
  const place = { programs, ports, password, directory, user: undefined, logs: directory };

  await using started = new AsyncDisposableStack();
  const pids: number[] = [];
  let env: Record<string, string> = {};
  for (const spec of rabbitmqSpecs(place)) {
    spec.prepare?.();
    env = spec.env as Record<string, string>;
    const program = await startProgram({
      name: spec.name,
      command: [spec.program, ...spec.args],
      env,
      directory,
      core,
      signal,
      isReady: async () => spec.isReady(0),
    });
    pids.push(started.use(program).pid);
  }
  const all = started.move();
  const [epmdPid = 0, pid = 0] = pids;
  return {
    amqpUrl: amqpUrl(place),
    pid,
    epmdPid,
    env,
    [Symbol.asyncDispose]: async () => all.disposeAsync(),
  };
}
