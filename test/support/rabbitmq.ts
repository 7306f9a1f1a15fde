/** A real RabbitMQ for a test file, and a look at its queues. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect, type ConsumeMessage } from "amqplib";
import { execa } from "execa";
import { findRabbitmqServer, startRabbitmq } from "../../bench/baselines/rabbitmq.ts";

/** Whether one is installed; tests that need it say that they skip. */
export const hasRabbitmq = findRabbitmqServer() !== undefined;
if (!hasRabbitmq) console.warn("SKIPPED: tests that need RabbitMQ (no rabbitmq-server)");

export type TestRabbitmq = Awaited<ReturnType<typeof startTestRabbitmq>>;

/** Starts one; it takes connections when this resolves. */
export async function startTestRabbitmq() {
  await using started = new AsyncDisposableStack();
  const directory = mkdtempSync(join(tmpdir(), "onsale-rabbitmq-"));
  started.defer(() => rmSync(directory, { recursive: true, force: true }));
  const server = started.use(
    await startRabbitmq({ directory, core: undefined, signal: new AbortController().signal }),
  );
  const connection = await connect(server.amqpUrl);
  connection.on("error", () => undefined);
  started.defer(async () => connection.close().catch(() => undefined));
  const channel = await connection.createConfirmChannel();
  const running = started.move();
  const control = async (...args: string[]): Promise<void> => {
    const { RUNNING_UNDER_SYSTEMD: _, ...env } = server.env;
    await execa("/usr/lib/rabbitmq/bin/rabbitmqctl", ["--quiet", ...args], { env, extendEnv: false });
  };
  return {
    amqpUrl: server.amqpUrl,
    /** Runs one of its own tools. */
    control,
    /** A queue of its own for what is published to the topic exchange under keys that match. */
    async bind(queue: string, exchange: string, pattern = "#", options: object = {}): Promise<void> {
      await channel.assertExchange(exchange, "topic");
      await channel.assertQueue(queue, { arguments: { "x-queue-type": "quorum", ...options } });
      await channel.bindQueue(queue, exchange, pattern);
    },
    /** The messages of a queue, in its order, as they come. */
    async consume(queue: string): Promise<ConsumeMessage[]> {
      const messages: ConsumeMessage[] = [];
      await channel.consume(queue, (message) => void (message && messages.push(message)), { noAck: true });
      return messages;
    },
    /** Messages that wait in a queue and are not delivered. */
    async waitingIn(queue: string): Promise<number> {
      return (await channel.checkQueue(queue)).messageCount;
    },
    /** At most so many messages wait in a queue. */
    async limit(queue: string, max: number): Promise<void> {
      const policy = [
        `small ${queue}`,
        `^${queue.replaceAll(".", "[.]")}$`,
        JSON.stringify({ "max-length": max }),
      ];
      await control("set_policy", "--apply-to", "queues", ...policy);
    },
    async put(queue: string, content: string): Promise<void> {
      channel.sendToQueue(queue, Buffer.from(content), { persistent: true });
      await channel.waitForConfirms();
    },
    /** Takes the next message out of a queue. */
    async take(
      queue: string,
    ): Promise<{ content: string; headers: Readonly<Record<string, unknown>> } | undefined> {
      const message = await channel.get(queue, { noAck: true });
      if (message === false) return undefined;
      // A count of RabbitMQ's own.
      const { "x-delivery-count": _, ...headers } = message.properties.headers ?? {};
      return { content: message.content.toString(), headers };
    },
    async empty(queues: readonly string[]): Promise<void> {
      for (const queue of queues) await channel.purgeQueue(queue);
    },
    [Symbol.asyncDispose]: async () => running.disposeAsync(),
  };
}
