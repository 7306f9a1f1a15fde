/** All connections of a load: opened together, reopened when they break, closed when nothing is due any more. */
import { setTimeout as sleep } from "node:timers/promises";
import { Connection, type Target } from "./connection.ts";
import type { Model } from "./models.ts";
import type { Tally } from "./tally.ts";

/** How long requests that were sent in time may take to be answered. */
const DRAIN_MAX_MS = 10_000;
/** Connections that are reopened. With more broken ones, the load measures nothing. */
const REOPENED_MAX = 1_000;

export class Connections {
  readonly #all: readonly Connection[];
  readonly #finished = Promise.withResolvers<void>();
  #work: { readonly model: Model; readonly tally: Tally } | undefined;
  #alive: number;
  #reopened = 0;

  /** Throws when the target does not accept all connections. */
  static async open(target: Target, count: number): Promise<Connections> {
    const connections = new Connections(target, count);
    await Promise.all(connections.#all.map(async (connection) => connection.open()));
    return connections;
  }

  private constructor(target: Target, count: number) {
    this.#alive = count;
    this.#all = Array.from(
      { length: count },
      () =>
        new Connection(target, {
          answered: (connection, answer, since) => {
            this.#work?.tally.answered(answer, since);
            this.#free(connection);
          },
          lost: (connection, reason, since) => {
            if (since !== undefined) this.#work?.tally.lost(reason);
            this.#work?.model.broken(connection);
            void this.#openAgain(connection);
          },
        }),
    );
  }

  /** Resolves when everything was sent and answered, or when no connection is left. */
  async run(model: Model, tally: Tally): Promise<void> {
    this.#work = { model, tally };
    for (const connection of this.#all) this.#free(connection);
    return this.#finished.promise;
  }

  /** Sends nothing new, waits for answers, counts the missing ones, and closes all connections. */
  async drain(): Promise<void> {
    const work = this.#work;
    if (work === undefined) return;
    work.model.stop();
    this.#finishWhenDone();
    await Promise.race([this.#finished.promise, sleep(DRAIN_MAX_MS, undefined, { ref: false })]);
    const left = work.model.waiting + this.#all.filter(({ busy }) => busy).length;
    if (left > 0) work.tally.lost(`no answer within ${DRAIN_MAX_MS / 1000} s`, left);
    this.#work = undefined;
    for (const connection of this.#all) connection.close();
  }

  #free(connection: Connection): void {
    this.#work?.model.free(connection);
    if (!connection.busy) this.#finishWhenDone();
  }

  #finishWhenDone(): void {
    if (this.#work?.model.exhausted === true && this.#all.every(({ busy }) => !busy))
      this.#finished.resolve();
    if (this.#alive === 0) this.#finished.resolve();
  }

  async #openAgain(connection: Connection): Promise<void> {
    while (this.#work !== undefined && this.#reopened < REOPENED_MAX) {
      this.#reopened += 1;
      try {
        await connection.open();
        if (this.#work === undefined) connection.close();
        else this.#free(connection);
        return;
      } catch (error) {
        this.#work?.tally.lost(error instanceof Error ? error.message : String(error));
      }
    }
    this.#alive -= 1;
    this.#finishWhenDone();
  }
}
