/** The queue as a router sees it: it takes a booking command, and says whether the broker has it. */
import type { BookCommand } from "../../shared/domain/commands.ts";
import { newBookingId, type ShardId } from "../../shared/domain/ids.ts";
import type { Clock } from "../../shared/process/clock.ts";
import type { Log } from "../../shared/process/log.ts";
import { Broker, type Published } from "../../shared/queue/broker.ts";
import { messageOf, type RequestCommand } from "../../shared/queue/message.ts";
import { queueOf } from "../../shared/queue/queues.ts";

export class BookingQueue {
  readonly #broker: Broker;
  readonly #clock: Clock;

  constructor(amqpUrl: string, clock: Clock, log: Log) {
    this.#broker = new Broker(amqpUrl, "onsale router", log);
    this.#clock = clock;
  }

  get up(): boolean {
    return this.#broker.up;
  }

  /** Offers a command to the owner of its slot. Only when it is `confirmed` is there a request. */
  async offer(
    owner: ShardId,
    command: BookCommand,
  ): Promise<{ published: Published; request: RequestCommand }> {
    const { slot } = command;
    // Its id says when it was accepted. A deadline is by a router's clock and is nothing to a node that takes it later.
    const request = { ...command, requestId: newBookingId(slot, this.#clock.now()), deadline: 0 };
    const published = await this.#broker.publish(queueOf(owner, slot), request.requestId, messageOf(request));
    return { published, request };
  }

  async close(): Promise<void> {
    await this.#broker.close();
  }
}
