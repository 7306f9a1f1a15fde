/** The queue as a router sees it: it takes booking commands, and says of each whether the broker has it. */
import type { BookCommand, RequestCommand } from "../../shared/domain/commands.ts";
import { newBookingId, type ShardId } from "../../shared/domain/ids.ts";
import type { Clock } from "../../shared/process/clock.ts";
import type { Log } from "../../shared/process/log.ts";
import { Broker, type Published } from "../../shared/queue/broker.ts";
import { messageOf, REQUESTS_MAX } from "../../shared/queue/message.ts";
import { queueOf } from "../../shared/queue/queues.ts";

/** Messages of one queue without a confirmation. */
const MESSAGES_MAX = 4;
/** Requests of one queue that wait for their message. */
const WAITING_MAX = 5_000;

export class BookingQueue {
  readonly #broker: Pick<Broker, "up" | "publish" | "close">;
  readonly #clock: Clock;
  /** By queue. */
  readonly #gathering = new Map<string, Gathering>();

  constructor(broker: Pick<Broker, "up" | "publish" | "close">, clock: Clock) {
    this.#broker = broker;
    this.#clock = clock;
  }

  static connect(amqpUrl: string, clock: Clock, log: Log): BookingQueue {
    return new BookingQueue(new Broker(amqpUrl, "onsale router", log), clock);
  }

  get up(): boolean {
    return this.#broker.up;
  }

  /**
   * Offers a command to the owner of its slot, and answers at the command's deadline at the latest. Only when it is `confirmed`
   * is there a request.
   */
  async offer(
    owner: ShardId,
    command: BookCommand,
  ): Promise<{ published: Published; request: RequestCommand }> {
    const { slot } = command;
    // Its id says when it was accepted. A deadline is by a router's clock and is nothing to a node that takes it later.
    const request = { ...command, requestId: newBookingId(slot, this.#clock.now()), deadline: 0 };
    const queue = queueOf(owner, slot);
    let gathering = this.#gathering.get(queue);
    if (gathering === undefined) this.#gathering.set(queue, (gathering = new Gathering(this.#broker, queue)));
    const published = await gathering.offer(request, command.deadline - this.#clock.elapsed());
    return { published, request };
  }

  async close(): Promise<void> {
    await this.#broker.close();
  }
}

interface Waiting {
  readonly request: RequestCommand;
  readonly resolve: (published: Published) => void;
}

/**
 * One queue. Requests of one turn of the event loop leave in one message, and while MESSAGES_MAX are under way, those that come
 * wait for the next. So messages grow with the load, and no timer adds latency.
 */
class Gathering {
  readonly #broker: Pick<Broker, "publish">;
  readonly #queue: string;
  /** In the order in which they came. */
  #waiting: Waiting[] = [];
  #underWay = 0;
  #isScheduled = false;

  constructor(broker: Pick<Broker, "publish">, queue: string) {
    this.#broker = broker;
    this.#queue = queue;
  }

  /** One that was not sent in time is refused; of one that was, nothing is known. */
  async offer(request: RequestCommand, withinMs: number): Promise<Published> {
    if (this.#waiting.length >= WAITING_MAX) return "refused";
    const { promise, resolve } = Promise.withResolvers<Published>();
    const waiting = { request, resolve };
    const timeout = setTimeout(() => {
      const place = this.#waiting.indexOf(waiting);
      if (place >= 0) this.#waiting.splice(place, 1);
      resolve(place >= 0 ? "refused" : "unknown");
    }, withinMs);
    this.#waiting.push(waiting);
    this.#schedule();
    try {
      return await promise;
    } finally {
      clearTimeout(timeout);
    }
  }

  #schedule(): void {
    if (this.#isScheduled || this.#waiting.length === 0 || this.#underWay >= MESSAGES_MAX) return;
    this.#isScheduled = true;
    setImmediate(() => {
      this.#isScheduled = false;
      void this.#send();
    });
  }

  async #send(): Promise<void> {
    const message = this.#waiting.splice(0, REQUESTS_MAX);
    const [first] = message;
    if (first === undefined) return;
    this.#underWay += 1;
    this.#schedule();
    const content = messageOf(message.map(({ request }) => request));
    const published = await this.#broker.publish(this.#queue, first.request.requestId, content);
    this.#underWay -= 1;
    for (const { resolve } of message) resolve(published);
    // The broker hangs. Who has waited behind would wait as long again, and was not sent.
    if (published === "unknown") for (const { resolve } of this.#waiting.splice(0)) resolve("refused");
    this.#schedule();
  }
}
