/** HTTP without sockets: requests that go straight to a server's listener, with Node's own kinds of request and stream. */
import { EventEmitter } from "node:events";
import { IncomingMessage, type OutgoingHttpHeaders, type Server } from "node:http";
import type { Socket } from "node:net";
import { Writable } from "node:stream";

export interface HttpRequest {
  readonly method: string;
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string | undefined;
}

/** Who hears the answer, piece by piece. */
export interface Hearer {
  readonly head: (status: number, headers: Readonly<Record<string, string>>) => void;
  readonly data: (piece: Buffer) => void;
  readonly end: () => void;
}

/** Gives a request to a server. The function that it returns hangs up. */
export function give(
  server: Server,
  { method, path, headers, body }: HttpRequest,
  hearer: Hearer,
): () => void {
  const socket = Object.assign(new EventEmitter(), { remoteAddress: "10.0.0.1", destroyed: false });
  const incoming = new IncomingMessage(socket as unknown as Socket);
  const all = {
    host: "onsale",
    ...headers,
    ...(body === undefined ? {} : { "content-length": String(Buffer.byteLength(body)) }),
  };
  Object.assign(incoming, { method, url: path, httpVersion: "1.1", complete: true });
  incoming.headers = all;
  incoming.rawHeaders = Object.entries(all).flat();
  if (body !== undefined) incoming.push(body);
  incoming.push(null);
  const outgoing = new Outgoing(hearer, socket as unknown as Socket);
  server.emit("request", incoming, outgoing);
  return () => void outgoing.destroy();
}

/** As much of a ServerResponse as the servers use. */
class Outgoing extends Writable {
  readonly socket: Socket;
  readonly #hearer: Hearer;
  readonly #headers: Record<string, string> = {};
  statusCode = 200;
  headersSent = false;

  constructor(hearer: Hearer, socket: Socket) {
    super();
    this.#hearer = hearer;
    this.socket = socket;
    this.on("error", () => undefined);
  }

  setHeader(name: string, value: string): void {
    this.#headers[name.toLowerCase()] = value;
  }

  hasHeader(name: string): boolean {
    return name.toLowerCase() in this.#headers;
  }

  writeHead(status: number, headers: OutgoingHttpHeaders = {}): this {
    for (const [name, value] of Object.entries(headers)) this.setHeader(name, String(value));
    this.statusCode = status;
    this.flushHeaders();
    return this;
  }

  flushHeaders(): void {
    if (this.headersSent) return;
    this.headersSent = true;
    this.#hearer.head(this.statusCode, this.#headers);
  }

  override _write(piece: Buffer, _encoding: string, done: () => void): void {
    this.flushHeaders();
    this.#hearer.data(piece);
    done();
  }

  override _final(done: () => void): void {
    this.flushHeaders();
    this.#hearer.end();
    done();
  }
}
