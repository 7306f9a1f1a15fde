/**
 * The other half of queue.ts: takes messages as they come, has up to BATCH_MAX of them decided in one transaction
 * (queue-decider.ts), and only after its commit replies and acknowledges. It locks events although it is
 * the only consumer: during a deployment two of them run.
 */
import { type Channel, connect, type ConsumeMessage } from "amqplib";
import { createPool, type Pool } from "../pool.ts";
import { serveParent } from "../service.ts";
import type { BookingRequest, Decision } from "../strategy.ts";
import { QUEUE, QUEUE_OPTIONS } from "./queue.ts";
import { decideBatch } from "./queue-decider.ts";

const BATCH_MAX = 100;
/** So many messages that the next batches have arrived before the current one ends. */
const PREFETCH = 3 * BATCH_MAX;

class Consumer {
  readonly #channel: Channel;
  readonly #pool: Pool;
  readonly #taken: ConsumeMessage[] = [];
  #busy = false;
  /** Resolves when every message that was taken is decided. */
  deciding: Promise<void> = Promise.resolve();

  constructor(channel: Channel, pool: Pool) {
    this.#channel = channel;
    this.#pool = pool;
  }

  take(message: ConsumeMessage | null): void {
    if (message === null) return; // the broker has ended the subscription
    this.#taken.push(message);
    if (!this.#busy) this.deciding = this.#decideAll();
  }

  async #decideAll(): Promise<void> {
    this.#busy = true;
    while (this.#taken.length > 0) {
      const batch = this.#taken.splice(0, BATCH_MAX);
      this.#reply(batch, await this.#decide(batch));
    }
    this.#busy = false;
  }

  async #decide(batch: readonly ConsumeMessage[]): Promise<Decision[]> {
    try {
      const requests = batch.map(({ content, fields }) => ({
        ...(JSON.parse(content.toString()) as BookingRequest),
        redelivered: fields.redelivered,
      }));
      return await decideBatch(this.#pool, requests);
    } catch (error) {
      process.stderr.write(`queue consumer: ${String(error)}\n`);
      return batch.map(() => ({ outcome: "outcome_unknown" }));
    }
  }

  #reply(batch: readonly ConsumeMessage[], decisions: readonly Decision[]): void {
    for (const [index, { properties }] of batch.entries()) {
      const reply = Buffer.from(JSON.stringify(decisions[index]));
      this.#channel.sendToQueue(String(properties.replyTo), reply, {
        correlationId: String(properties.correlationId),
      });
    }
    const last = batch.at(-1);
    if (last !== undefined) this.#channel.ack(last, true);
  }
}

await serveParent(async ({ databaseUrl, amqpUrl }) => {
  const pool = createPool(databaseUrl, 1);
  const connection = await connect(amqpUrl, { noDelay: true });
  connection.on("error", () => undefined); // the channel closes too
  const channel = await connection.createChannel();
  channel.on("error", () => undefined);
  await channel.assertQueue(QUEUE, QUEUE_OPTIONS);
  await channel.prefetch(PREFETCH);
  const consumer = new Consumer(channel, pool);
  const { consumerTag } = await channel.consume(QUEUE, (message) => consumer.take(message));
  return {
    stats: { retries: 0, lockWaitSeconds: 0 },
    async [Symbol.asyncDispose]() {
      await channel.cancel(consumerTag).catch(() => undefined); // the broker may be gone already
      await consumer.deciding;
      await connection.close().catch(() => undefined);
      await pool.close();
    },
  };
});
