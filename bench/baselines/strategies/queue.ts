/**
 * A queue in front: this process only puts bookings on a durable queue in RabbitMQ and waits for the reply (direct reply-to,
 * RabbitMQ manual); one consumer for the shard (queue-consumer.ts) decides. Messages are not persistent: nobody is told
 * "confirmed" before the booking is committed, so a message that dies with the broker loses nothing that was promised, and
 * one that outlives its client's patience would only book for somebody who has left.
 */
import { connect, type Channel, type ChannelModel } from "amqplib";
import type { BookingRequest, Decision, Strategy, StrategyModule } from "../strategy.ts";

export const QUEUE = "bookings";
/** Both sides declare the queue with the same options; the first one makes it. */
export const QUEUE_OPTIONS = { durable: true, arguments: { "x-single-active-consumer": true } };

const REPLY_TO = "amq.rabbitmq.reply-to";
const REPLY_MAX_MS = 5_000;
const WAITING_MAX = 5_000;

export const queue: StrategyModule = {
  title: "RabbitMQ in front, one consumer decides in batches",
  needs: ["rabbitmq-server"],
  schema: "",
  worker: { name: "consumer", script: "queue-consumer.ts" },
  async start({ amqpUrl }) {
    const connection = await connect(amqpUrl, { noDelay: true });
    connection.on("error", () => undefined); // the channel closes too, and that is what is listened to
    const channel = await connection.createChannel();
    await channel.assertQueue(QUEUE, QUEUE_OPTIONS);
    const strategy = new Queue(connection, channel);
    await channel.consume(REPLY_TO, (message) => strategy.replied(message), { noAck: true });
    return strategy;
  },
};

interface Waiting {
  readonly resolve: (decision: Decision) => void;
  readonly timeout: NodeJS.Timeout;
}

class Queue implements Strategy {
  readonly #connection: ChannelModel;
  readonly #channel: Channel;
  readonly #waiting = new Map<string, Waiting>();
  #open = true;
  readonly stats = { retries: 0, lockWaitSeconds: 0 };

  constructor(connection: ChannelModel, channel: Channel) {
    this.#connection = connection;
    this.#channel = channel;
    channel.on("error", () => undefined);
    channel.on("close", () => {
      this.#open = false;
      for (const id of this.#waiting.keys()) this.#answer(id, { outcome: "outcome_unknown" });
    });
  }

  async book(request: BookingRequest): Promise<Decision> {
    if (!this.#open || this.#waiting.size >= WAITING_MAX) return { outcome: "overloaded" };
    const { id } = request;
    const { promise, resolve } = Promise.withResolvers<Decision>();
    const timeout = setTimeout(() => this.#answer(id, { outcome: "outcome_unknown" }), REPLY_MAX_MS);
    this.#waiting.set(id, { resolve, timeout });
    this.#channel.sendToQueue(QUEUE, Buffer.from(JSON.stringify(request)), {
      correlationId: id,
      replyTo: REPLY_TO,
      expiration: REPLY_MAX_MS,
    });
    return promise;
  }

  /** A message from the consumer. */
  replied(message: { content: Buffer; properties: { correlationId?: unknown } } | null): void {
    if (message === null) return;
    this.#answer(
      String(message.properties.correlationId),
      JSON.parse(message.content.toString()) as Decision,
    );
  }

  #answer(id: string, decision: Decision): void {
    const waiting = this.#waiting.get(id);
    if (waiting === undefined) return;
    this.#waiting.delete(id);
    clearTimeout(waiting.timeout);
    waiting.resolve(decision);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#connection.close().catch(() => undefined); // the broker may be gone already
  }
}
