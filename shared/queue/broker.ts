/**
 * The connection to RabbitMQ. The only door to amqplib. It connects again by itself, and tells its loss and its return in one
 * log line each. What is published counts only when the broker has confirmed it; a delivery stays with the broker until it is
 * acknowledged.
 */
import { setTimeout as sleep } from "node:timers/promises";
import {
  type Channel,
  type ChannelModel,
  type ConfirmChannel,
  connect,
  type RecoveringChannelModel,
} from "amqplib";
import type { Log } from "../process/log.ts";
import { Outage } from "../process/outage.ts";
import { argumentsOf, DEAD_QUEUE } from "./queues.ts";

const CONNECT_MAX_MS = 5_000;
const HEARTBEAT_SECONDS = 5;
const RECONNECT_MIN_MS = 100;
const RECONNECT_MAX_MS = 1_000;
/** Messages without a confirmation. */
const PUBLISHES_MAX = 500;
const CONFIRM_MAX_MS = 5_000;
/** How long a question to the broker may take that nobody must have answered. */
const ANSWER_MAX_MS = 1_000;

/**
 * What became of a message.
 * - `confirmed`: the broker has it, on disk.
 * - `refused`: the broker does not have it, because its queue is full or too much is under way.
 * - `unknown`: nobody said. The broker may have it.
 * - `away`: it was not sent.
 */
export type Published = "confirmed" | "refused" | "unknown" | "away";

export interface Delivery {
  readonly content: Buffer;
  /** Tells the broker that it may forget this message, and with `upTo` all that its queue delivered before. */
  acknowledge(upTo?: boolean): void;
}

/** Takes the messages of one queue. */
export interface Consumer {
  readonly queue: string;
  /** Deliveries without an acknowledgement. */
  readonly prefetch: number;
  /** Whatever was delivered before is delivered again, here or elsewhere. */
  opened(): void;
  deliver(delivery: Delivery): void;
}

export class Broker {
  readonly #connection: Promise<RecoveringChannelModel>;
  readonly #consumers: readonly Consumer[];
  readonly #outage: Outage;
  #publishing: Publishing | undefined;
  #consuming: readonly Consuming[] = [];
  #blocked = false;
  #underWay = 0;

  /** `name` is shown by the broker's own tools. */
  constructor(url: string, name: string, log: Log, consumers: readonly Consumer[] = []) {
    this.#consumers = consumers;
    this.#outage = new Outage(log, "RabbitMQ");
    const withHeartbeat = new URL(url);
    withHeartbeat.searchParams.set("heartbeat", String(HEARTBEAT_SECONDS));
    this.#connection = connect(withHeartbeat.href, {
      noDelay: true,
      timeout: CONNECT_MAX_MS,
      clientProperties: { connection_name: name },
      recovery: {
        initialDelay: RECONNECT_MIN_MS,
        maxDelay: RECONNECT_MAX_MS,
        waitForConnect: false,
        setup: async (model: ChannelModel) => this.#open(model),
      },
    }).then((connection) => {
      connection.on("connect", () => this.#outage.worked());
      connection.on("connect-failed", (error) => this.#outage.failed(error));
      connection.on("disconnect", (error) => this.#lost(error));
      // It comes with `disconnect`, and would end the process without a listener.
      connection.on("error", () => undefined);
      connection.on("blocked", () => (this.#blocked = true));
      connection.on("unblocked", () => (this.#blocked = false));
      return connection;
    });
  }

  /** Whether messages can be sent now. A broker without memory or disk blocks whoever publishes. */
  get up(): boolean {
    return this.#publishing !== undefined && !this.#blocked;
  }

  /** Puts a message into a queue. Never throws, and resolves in CONFIRM_MAX_MS at the latest. */
  async publish(
    queue: string,
    id: string,
    content: Buffer,
    headers: Readonly<Record<string, string>> = {},
  ): Promise<Published> {
    return this.#publish(async (publishing) =>
      publishing.toQueue(queue, content, { messageId: id, headers }),
    );
  }

  /**
   * Gives a message to all queues that are bound to the exchange for its key, by whoever wants to read it; there may be none. One
   * queue that refuses it makes it refused, though others may have it. Like `publish` otherwise.
   */
  async announce(
    exchange: string,
    key: string,
    content: Buffer,
    named: { readonly messageId: string; readonly contentType: string },
  ): Promise<Published> {
    return this.#publish(async (publishing) => publishing.toExchange(exchange, key, content, named));
  }

  async #publish(send: (publishing: Publishing) => Promise<Published>): Promise<Published> {
    const publishing = this.#publishing;
    if (publishing === undefined || this.#blocked) return "away";
    if (this.#underWay >= PUBLISHES_MAX) return "refused";
    this.#underWay += 1;
    const { promise, resolve } = Promise.withResolvers<Published>();
    const timeout = setTimeout(() => resolve("unknown"), CONFIRM_MAX_MS);
    void send(publishing).then(resolve);
    try {
      return await promise;
    } finally {
      clearTimeout(timeout);
      this.#underWay -= 1;
    }
  }

  /** Messages that wait in the queue, without those that are delivered and not acknowledged; undefined when nobody can say. */
  async waitingIn(queue: string): Promise<number | undefined> {
    return soon(this.#consuming.find((consuming) => consuming.queue === queue)?.waiting());
  }

  /** No more deliveries come when it resolves. Those without an acknowledgement can still get one, until `close`. */
  async stopConsuming(): Promise<void> {
    await soon(Promise.all(this.#consuming.map(async (consuming) => consuming.stop())));
  }

  async close(): Promise<void> {
    const connection = await this.#connection;
    await soon(connection.close());
  }

  /** After each connect: channels do not outlive their connection. */
  async #open(model: ChannelModel): Promise<void> {
    this.#blocked = false;
    // A channel that ends alone, because somebody deleted its queue for example, is opened again with a new connection.
    const ended = (): void => void model.close().catch(() => undefined);
    const publishing = new Publishing(await model.createConfirmChannel(), ended);
    const consuming: Consuming[] = [];
    if (this.#consumers.length > 0) await publishing.declare(DEAD_QUEUE);
    for (const consumer of this.#consumers) {
      const channel = await model.createChannel();
      consuming.push(await Consuming.start(consumer, channel, ended));
    }
    this.#publishing = publishing;
    this.#consuming = consuming;
  }

  #lost(error: Error): void {
    this.#publishing = undefined;
    this.#consuming = [];
    this.#outage.failed(error);
  }
}

/** A broker that hangs must not hold up who asks it for a figure, or leaves it. */
async function soon<T>(answer: Promise<T> | undefined): Promise<T | undefined> {
  return Promise.race([answer, sleep(ANSWER_MAX_MS, undefined, { ref: false })]);
}

/** One channel that publishes. */
class Publishing {
  readonly #channel: ConfirmChannel;
  readonly #declared = new Map<string, Promise<void>>();
  /** Ids of messages that the broker sent back: their queue is gone. */
  readonly #returned = new Set<string>();

  constructor(channel: ConfirmChannel, ended: () => void) {
    this.#channel = channel;
    // `close` follows.
    channel.on("error", () => undefined);
    channel.on("close", ended);
    channel.on("return", ({ properties, fields }) => {
      this.#returned.add(String(properties.messageId));
      this.#declared.delete(fields.routingKey);
    });
  }

  async toQueue(
    queue: string,
    content: Buffer,
    options: { readonly messageId: string; readonly headers: object },
  ): Promise<Published> {
    return this.#publish(
      options.messageId,
      async () => this.declare(queue),
      (confirmed) =>
        this.#channel.sendToQueue(
          queue,
          content,
          { persistent: true, mandatory: true, ...options },
          confirmed,
        ),
    );
  }

  async toExchange(
    exchange: string,
    key: string,
    content: Buffer,
    options: { readonly messageId: string; readonly contentType: string },
  ): Promise<Published> {
    return this.#publish(
      options.messageId,
      async () =>
        this.#once(exchange, async () => {
          await this.#channel.assertExchange(exchange, "topic", { durable: true });
        }),
      (confirmed) =>
        this.#channel.publish(exchange, key, content, { persistent: true, ...options }, confirmed),
    );
  }

  async declare(queue: string): Promise<void> {
    return this.#once(queue, async () => declare(this.#channel, queue));
  }

  /** Asks the broker once for a queue or an exchange. */
  async #once(name: string, ask: () => Promise<void>): Promise<void> {
    let declared = this.#declared.get(name);
    if (declared === undefined) {
      declared = ask();
      this.#declared.set(name, declared);
      declared.catch(() => this.#declared.delete(name));
    }
    return declared;
  }

  async #publish(
    id: string,
    declareFirst: () => Promise<void>,
    send: (confirmed: (error: unknown) => void) => boolean,
  ): Promise<Published> {
    try {
      await declareFirst();
    } catch {
      return "away";
    }
    const { promise, resolve } = Promise.withResolvers<Published>();
    const confirmed = (error: unknown): void => {
      // A message that is sent back is confirmed as well: the broker is done with it.
      if (this.#returned.delete(id) || isNack(error)) resolve("refused");
      else resolve(error === null ? "confirmed" : "unknown");
    };
    try {
      send(confirmed);
    } catch {
      // The channel has closed.
      resolve("away");
    }
    return promise;
  }
}

/** amqplib says it only in the message. Its other error says that the channel has closed. */
function isNack(error: unknown): boolean {
  return error instanceof Error && error.message === "message nacked";
}

/** One channel that consumes one queue: to acknowledge "all up to this one" concerns no other. */
class Consuming {
  readonly queue: string;
  readonly #channel: Channel;
  #tag = "";

  private constructor(queue: string, channel: Channel) {
    this.queue = queue;
    this.#channel = channel;
  }

  static async start(consumer: Consumer, channel: Channel, ended: () => void): Promise<Consuming> {
    const { queue, prefetch } = consumer;
    channel.on("error", () => undefined);
    channel.on("close", ended);
    await declare(channel, queue);
    await channel.prefetch(prefetch);
    consumer.opened();
    const consuming = new Consuming(queue, channel);
    const { consumerTag } = await channel.consume(queue, (message) => {
      // The broker has ended the subscription.
      if (message === null) return ended();
      consumer.deliver({
        content: message.content,
        acknowledge: (upTo = false) => {
          try {
            channel.ack(message, upTo);
          } catch {
            // The channel has closed, and the message comes again.
          }
        },
      });
    });
    consuming.#tag = consumerTag;
    return consuming;
  }

  async waiting(): Promise<number | undefined> {
    try {
      return (await this.#channel.checkQueue(this.queue)).messageCount;
    } catch {
      return undefined;
    }
  }

  async stop(): Promise<void> {
    await this.#channel.cancel(this.#tag).catch(() => undefined);
  }
}

async function declare(channel: Channel, queue: string): Promise<void> {
  await channel.assertQueue(queue, { durable: true, arguments: argumentsOf(queue) });
}
