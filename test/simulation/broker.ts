/**
 * RabbitMQ as processes see it: queues with a single active consumer each, and deliveries that stay until they are acknowledged.
 * When a connection is lost or a consumer dies, all that it did not acknowledge goes back to the front, in order.
 */
import type { IntakeBroker } from "../../shard-node/queue/intake.ts";
import type { RequestCommand } from "../../shared/domain/commands.ts";
import type { Consumer, Published } from "../../shared/queue/broker.ts";
import { requestsFrom } from "../../shared/queue/message.ts";
import { DEAD_QUEUE } from "../../shared/queue/queues.ts";
import { type Process, self, world } from "./world.ts";

/** Until a process gives up on a confirmation, as shared/queue/broker.ts does. */
const CONFIRM_MAX_MS = 5_000;

export interface BrokerObserver {
  /** A queue has these requests, behind all that it had before. */
  accepted(queue: string, requests: readonly RequestCommand[]): void;
  /** A node says that it has done all that there was to do for these. */
  acknowledged(node: Process, requests: readonly RequestCommand[]): void;
  buried(reason: string): void;
}

interface Message {
  /** Its place in the queue. */
  readonly place: number;
  readonly content: Buffer;
}

interface Delivered {
  readonly message: Message;
  readonly to: Subscription;
}

interface Subscription {
  readonly connection: Connection;
  readonly consumer: Consumer;
}

interface Queue {
  readonly name: string;
  readonly ready: Message[];
  unacknowledged: Delivered[];
  /** The first one gets the messages. */
  readonly subscriptions: Subscription[];
}

export class SimulatedBroker {
  /** The probability that a confirmation is lost; the message may be lost too. */
  loses = 0;
  readonly #observer: BrokerObserver;
  readonly #process: Process;
  readonly #queues = new Map<string, Queue>();
  readonly #connections = new Set<Connection>();
  #isDown = false;
  #places = 0;

  constructor(process: Process, observer: BrokerObserver) {
    this.#process = process;
    this.#observer = observer;
  }

  get down(): boolean {
    return this.#isDown;
  }

  /** What it holds is on disk. All connections are lost, and come again when it does. */
  set down(isDown: boolean) {
    this.#isDown = isDown;
    if (isDown) this.loseConnections();
  }

  /** Of the process that runs now. */
  connect(consumers: readonly Consumer[] = []): Connection {
    const connection = new Connection(this, self(), consumers);
    this.#connections.add(connection);
    this.#reconnect(connection);
    return connection;
  }

  loseConnections(): void {
    for (const connection of this.#connections) {
      this.#drop(connection);
      this.#reconnect(connection);
    }
  }

  /** A process was killed. */
  left(process: Process): void {
    for (const connection of this.#connections) {
      if (connection.process !== process) continue;
      this.#connections.delete(connection);
      this.#drop(connection);
    }
  }

  publish(
    connection: Connection,
    name: string,
    content: Buffer,
    reason: string | undefined,
  ): Promise<Published> {
    const { promise, resolve } = Promise.withResolvers<Published>();
    const { process } = connection;
    const said = (published: Published, ms: number): void =>
      void world().after(ms, () => resolve(published), process);
    const isLost = world().chance(this.loses);
    const arrives = !isLost || world().chance(0.5);
    if (isLost)
      world().note(`a confirmation for ${name} gets lost, ${arrives ? "and no" : "and its"} message`);
    const { life } = connection;
    this.#inOrder(connection, () => {
      if (connection.life !== life) return said("unknown", 1);
      if (!arrives) return said("unknown", CONFIRM_MAX_MS);
      if (name === DEAD_QUEUE) this.#observer.buried(reason ?? "");
      else this.#take(name, content);
      return said(isLost ? "unknown" : "confirmed", isLost ? CONFIRM_MAX_MS : world().between(0.5, 5));
    });
    return promise;
  }

  acknowledge(to: Subscription, { place, content }: Message, upTo: boolean): void {
    const queue = this.#queueOf(to.consumer.queue);
    const isDone = (delivered: Delivered): boolean =>
      delivered.to === to && (delivered.message.place === place || (upTo && delivered.message.place < place));
    const done = upTo ? queue.unacknowledged.filter(isDone).map(({ message }) => message.content) : [content];
    this.#observer.acknowledged(to.connection.process, done.flatMap(requestsIn));
    const { life } = to.connection;
    this.#inOrder(to.connection, () => {
      // What was lost with its connection is delivered again.
      if (to.connection.life !== life) return;
      queue.unacknowledged = queue.unacknowledged.filter((delivered) => !isDone(delivered));
      this.#deliver(queue);
    });
  }

  waitingIn(name: string): number {
    return this.#queueOf(name).ready.length;
  }

  cancel(connection: Connection): void {
    for (const queue of this.#queues.values()) {
      const index = queue.subscriptions.findIndex((each) => each.connection === connection);
      if (index >= 0) queue.subscriptions.splice(index, 1);
    }
  }

  /** What a connection says arrives in order. */
  #inOrder(connection: Connection, run: () => void): void {
    connection.arrivesAt = Math.max(connection.arrivesAt, world().now + world().between(0.1, 1));
    world().after(connection.arrivesAt - world().now, run, this.#process);
  }

  #take(name: string, content: Buffer): void {
    const queue = this.#queueOf(name);
    this.#observer.accepted(name, requestsIn(content));
    queue.ready.push({ place: (this.#places += 1), content });
    this.#deliver(queue);
  }

  #deliver(queue: Queue): void {
    const [to] = queue.subscriptions;
    if (to === undefined) return;
    const { connection, consumer } = to;
    let free = consumer.prefetch - queue.unacknowledged.filter((delivered) => delivered.to === to).length;
    for (; free > 0; free -= 1) {
      const message = queue.ready.shift();
      if (message === undefined) return;
      queue.unacknowledged.push({ message, to });
      connection.arrivesBackAt = Math.max(connection.arrivesBackAt, world().now + world().between(0.1, 1));
      const { life } = connection;
      const deliver = (): void => {
        if (connection.life !== life) return;
        consumer.deliver({
          content: message.content,
          acknowledge: (upTo = false) => {
            if (connection.life === life) this.acknowledge(to, message, upTo);
          },
        });
      };
      world().after(connection.arrivesBackAt - world().now, deliver, connection.process);
    }
  }

  #drop(connection: Connection): void {
    connection.life += 1;
    connection.isOpen = false;
    this.cancel(connection);
    for (const queue of this.#queues.values()) {
      const back = queue.unacknowledged.filter(({ to }) => to.connection === connection);
      queue.unacknowledged = queue.unacknowledged.filter(({ to }) => to.connection !== connection);
      queue.ready.unshift(...back.map(({ message }) => message));
      queue.ready.sort((a, b) => a.place - b.place);
      this.#deliver(queue);
    }
  }

  #reconnect(connection: Connection): void {
    const { process, life } = connection;
    world().after(
      world().between(5, 300),
      () => {
        // It is gone, or was lost once more.
        if (!this.#connections.has(connection) || connection.life !== life) return;
        if (this.#isDown) return this.#reconnect(connection);
        connection.isOpen = true;
        for (const consumer of connection.consumers) {
          consumer.opened();
          const queue = this.#queueOf(consumer.queue);
          queue.subscriptions.push({ connection, consumer });
          this.#deliver(queue);
        }
        return undefined;
      },
      process,
    );
  }

  #queueOf(name: string): Queue {
    let queue = this.#queues.get(name);
    if (queue === undefined)
      this.#queues.set(name, (queue = { name, ready: [], unacknowledged: [], subscriptions: [] }));
    return queue;
  }
}

/** One process's connection, in place of its Broker. */
export class Connection implements IntakeBroker {
  readonly process: Process;
  readonly consumers: readonly Consumer[];
  readonly #broker: SimulatedBroker;
  isOpen = false;
  /** Rises with each loss. */
  life = 0;
  arrivesAt = 0;
  arrivesBackAt = 0;

  constructor(broker: SimulatedBroker, process: Process, consumers: readonly Consumer[]) {
    this.#broker = broker;
    this.process = process;
    this.consumers = consumers;
  }

  get up(): boolean {
    return this.isOpen;
  }

  async publish(
    queue: string,
    _id: string,
    content: Buffer,
    headers: Readonly<Record<string, string>> = {},
  ): Promise<Published> {
    return this.isOpen ? this.#broker.publish(this, queue, content, headers["reason"]) : "away";
  }

  async waitingIn(queue: string): Promise<number | undefined> {
    return this.isOpen ? this.#broker.waitingIn(queue) : undefined;
  }

  async stopConsuming(): Promise<void> {
    this.#broker.cancel(this);
  }

  async close(): Promise<void> {
    this.#broker.left(this.process);
  }
}

function requestsIn(content: Buffer): readonly RequestCommand[] {
  const requests = requestsFrom(content);
  return "unreadable" in requests ? [] : requests;
}
