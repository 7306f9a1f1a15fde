/**
 * One keep-alive connection with at most one request under way. It understands only answers with a
 * status line and either `content-length` or no body.
 */
import { connect, type Socket } from "node:net";
import { type Answer, parseAnswer } from "./answer.ts";

export interface Target {
  readonly host: string;
  readonly port: number;
}

export interface ConnectionEvents {
  /** The answer to a request that was sent with this `since`. The connection is free for the next one. */
  answered(connection: Connection, answer: Answer, since: number): void;
  /** The connection broke. `since` belongs to the request under way, if there was one. */
  lost(connection: Connection, reason: string, since: number | undefined): void;
}

const READ_BUFFER_BYTES = 16 * 1024;

export class Connection {
  readonly #target: Target;
  readonly #events: ConnectionEvents;
  #socket: Socket | undefined;
  #since: number | undefined;
  /** The pieces of an answer that has not arrived whole. */
  #received = "";

  constructor(target: Target, events: ConnectionEvents) {
    this.#target = target;
    this.#events = events;
  }

  /** Resolves when the connection is open. Rejects when it cannot be opened. */
  async open(): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      // One buffer for all answers, not one for each.
      const buffer = Buffer.allocUnsafeSlow(READ_BUFFER_BYTES);
      const socket = connect({
        ...this.#target,
        noDelay: true,
        onread: { buffer, callback: (length) => this.#read(buffer.toString("latin1", 0, length)) },
      });
      socket.once("connect", () => {
        this.#socket = socket;
        resolve();
      });
      socket.on("error", (error) => {
        reject(error);
        this.#end(error.message);
      });
      socket.on("close", () => this.#end("closed by the server"));
    });
  }

  /** Is a request under way? */
  get busy(): boolean {
    return this.#since !== undefined;
  }

  /** `since` is the moment from which its latency counts (performance.now()). */
  send(request: string, since: number): void {
    this.#since = since;
    this.#socket?.write(request, "latin1");
  }

  /** Closes it, whatever is under way. */
  close(): void {
    const socket = this.#socket;
    this.#socket = undefined;
    socket?.destroy();
  }

  #read(piece: string): boolean {
    const text = this.#received === "" ? piece : this.#received + piece;
    const answer = parseAnswer(text);
    const since = this.#since;
    if (answer === "incomplete") {
      this.#received = text;
    } else if (answer === "unknown" || since === undefined) {
      this.#end("an answer that is not understood");
    } else {
      this.#received = "";
      this.#since = undefined;
      this.#events.answered(this, answer, since);
    }
    return true;
  }

  #end(reason: string): void {
    if (this.#socket === undefined) return;
    this.close();
    const since = this.#since;
    this.#since = undefined;
    this.#received = "";
    this.#events.lost(this, reason, since);
  }
}
