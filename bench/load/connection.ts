/**
 * One keep-alive connection that always has exactly one request under way (a closed model: a slow answer delays the
 * next request, as it does for a person). It understands only what the benchmark's servers say: a status line, and
 * `content-length` or no body at all.
 */
import { connect, type Socket } from "node:net";

export interface Target {
  readonly host: string;
  readonly port: number;
}

export interface ConnectionEvents {
  /** The next request, complete, or undefined when there is none and the connection should end. */
  next(): string | undefined;
  /** `problem` is the code of a problem document. */
  answered(status: number, problem: string | undefined, milliseconds: number): void;
  /** The connection broke under a request. */
  lost(reason: string): void;
}

const READ_BUFFER_BYTES = 16 * 1024;
const HEADERS_END = "\r\n\r\n";
const CONTENT_LENGTH = /\r\ncontent-length: *(\d+)\r\n/i;
const PROBLEM_CODE = /"code":"(\w+)"/;
const BODILESS = new Set([204, 304]);

export class Connection {
  readonly #target: Target;
  readonly #events: ConnectionEvents;
  #socket: Socket | undefined;
  #sentAt = 0;
  /** What has arrived of the answer under way, when it came in several pieces. */
  #received = "";

  constructor(target: Target, events: ConnectionEvents) {
    this.#target = target;
    this.#events = events;
  }

  /** Resolves when the connection is there and the first request is sent. Rejects when it cannot be made. */
  async open(): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      // One buffer for ever instead of one per answer.
      const buffer = Buffer.allocUnsafeSlow(READ_BUFFER_BYTES);
      const socket = connect({
        ...this.#target,
        noDelay: true,
        onread: { buffer, callback: (length) => this.#read(buffer.toString("latin1", 0, length)) },
      });
      this.#socket = socket;
      socket.once("connect", () => {
        resolve();
        this.#send();
      });
      socket.on("error", (error) => {
        reject(error);
        this.#end(error.message);
      });
      socket.on("close", () => this.#end("closed by the server"));
    });
  }

  /** Closes it, whatever is under way. */
  close(): void {
    const socket = this.#socket;
    this.#socket = undefined;
    socket?.destroy();
  }

  #send(): void {
    const request = this.#events.next();
    if (request === undefined) {
      this.close();
      return;
    }
    this.#sentAt = performance.now();
    this.#socket?.write(request, "latin1");
  }

  #read(piece: string): boolean {
    const text = this.#received + piece;
    const headersEnd = text.indexOf(HEADERS_END);
    const status = Number(text.slice(9, 12));
    const length = BODILESS.has(status) ? 0 : Number(CONTENT_LENGTH.exec(text)?.[1] ?? Number.NaN);
    if (headersEnd >= 0 && Number.isNaN(length)) {
      this.#end(`an answer ${status} without content-length`);
    } else if (headersEnd < 0 || text.length < headersEnd + HEADERS_END.length + length) {
      this.#received = text;
    } else {
      this.#received = "";
      const problem = status >= 400 ? PROBLEM_CODE.exec(text)?.[1] : undefined;
      this.#events.answered(status, problem, performance.now() - this.#sentAt);
      this.#send();
    }
    return true;
  }

  #end(reason: string): void {
    if (this.#socket === undefined) return;
    this.close();
    this.#events.lost(reason);
  }
}
