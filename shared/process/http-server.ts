/**
 * What the HTTP servers of all roles share: they serve a hono app with node:http, listen, read bodies and drain. The only
 * door to @hono/node-server.
 */
import { isUtf8 } from "node:buffer";
import { once } from "node:events";
import {
  createServer,
  type IncomingMessage,
  type RequestListener,
  type Server,
  ServerResponse,
} from "node:http";
import type { Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { getRequestListener, type HttpBindings } from "@hono/node-server";

export type { HttpBindings };

/** The type of `context.env` in a hono handler: Node's own request and response. */
export interface HttpEnv {
  Bindings: HttpBindings;
}

/** Node.js refuses longer headers before they become a request. */
export const HEADERS_MAX_BYTES = 16 * 1024;

/** They cut off a client that is slow on purpose (Node.js manual, http.createServer). */
const LIMITS = {
  maxHeaderSize: HEADERS_MAX_BYTES,
  headersTimeout: 10_000,
  requestTimeout: 15_000,
  connectionsCheckingInterval: 5_000,
  keepAliveTimeout: 65_000,
  // The app refuses such a request with a problem document.
  requireHostHeader: false,
  // No stream for a request without a body. This saves 2 µs a read.
  optimizeEmptyRequests: true,
};

const DRAIN_REQUESTS_MAX_MS = 10_000;
const DRAIN_IDLE_CHECK_MS = 20;

export type Fetch = (request: Request, env: HttpBindings) => Response | Promise<Response>;

export interface ServedApp {
  readonly fetch: Fetch;
  /** The response to a request whose address or Host header is no URL. */
  readonly badRequest: () => Response;
  /** Wraps the listener, so that it sees each request before the app. */
  readonly wrap?: (listener: RequestListener) => RequestListener;
}

/** A client may send its next request before it has the response to the last one (pipelining, RFC 9112 §9.3.2). */
const NEWEST = Symbol("newest response");
const BEFORE = Symbol("response before the newest");
interface ServedSocket extends Socket {
  [NEWEST]?: ServerResponse;
  [BEFORE]?: ServerResponse | undefined;
}

/** The responses to a connection's newest request and to the one before. Node.js sends them in order, so older ones are done. */
export function responsesOn(
  socket: Socket,
): readonly [newest?: ServerResponse, before?: ServerResponse | undefined] {
  const { [NEWEST]: newest, [BEFORE]: before } = socket as ServedSocket;
  return newest === undefined ? [] : [newest, before];
}

/** Sends ASCII text, which is nearly all text, as latin1. The bytes are the same, and a copy is cheaper than an encoding. */
class AsciiResponse extends ServerResponse {
  override end(chunk?: unknown, encoding?: unknown, done?: () => void): this {
    if (typeof chunk === "string" && encoding === undefined && Buffer.byteLength(chunk) === chunk.length)
      return super.end(chunk, "latin1", done);
    return super.end(chunk, encoding as BufferEncoding, done);
  }
}

/** A server for the app; it does not listen yet. */
export function createHttpServer({ fetch, badRequest, wrap = (listener) => listener }: ServedApp): Server {
  // The adapter's type also allows HTTP/2, which this project does not serve.
  const serve = getRequestListener(fetch as Parameters<typeof getRequestListener>[0], {
    // The adapter's URL needs a host, and HTTP/1.0 requires no Host header (RFC 9112 §3.2).
    hostname: "localhost",
    errorHandler: badRequest,
  });
  // The event's only listener: with two, Node.js would copy their list for every request.
  const listener = wrap((incoming, outgoing) => {
    const socket = incoming.socket as ServedSocket;
    socket[BEFORE] = socket[NEWEST];
    socket[NEWEST] = outgoing;
    // A draining server sends its clients elsewhere.
    if (!server.listening) outgoing.setHeader("connection", "close");
    void serve(incoming, outgoing);
  });
  const server = createServer({ ...LIMITS, ServerResponse: AsciiResponse }, listener);
  return server;
}

/** Resolves with the URL at which this machine reaches the server. Port 0 takes a free port. */
export async function listen(
  server: Server,
  { host, port }: { host: string; port: number },
): Promise<string> {
  server.listen({ host, port });
  await once(server, "listening");
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("a TCP server has a port");
  const local = address.address.replace(/^0\.0\.0\.0$/, "127.0.0.1").replace(/^::$/, "::1");
  return `http://${local.includes(":") ? `[${local}]` : local}:${address.port}`;
}

/**
 * Stops a server. Resolves when it has answered the last request. For `graceMs` it serves as before, while clients see at
 * `/readyz` that it drains (drainGraceMs in config.ts). Then it accepts no connection, finishes the requests under way, and
 * cuts off a client that is too slow. `Server.close` ends only connections that are idle at that moment; the interval ends
 * the others.
 */
export async function drain(server: Server, graceMs: number): Promise<void> {
  await sleep(graceMs);
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  const idle = setInterval(() => server.closeIdleConnections(), DRAIN_IDLE_CHECK_MS);
  const cutOff = setTimeout(() => server.closeAllConnections(), DRAIN_REQUESTS_MAX_MS);
  await closed;
  clearInterval(idle);
  clearTimeout(cutOff);
}

/** A body is longer than allowed, the client left in the middle of it, or its bytes are no text. */
export class BodyError extends Error {
  override readonly name = "BodyError";
  readonly kind: "too_large" | "incomplete" | "not_utf8";

  constructor(kind: BodyError["kind"]) {
    super(`the body is ${kind}`);
    this.kind = kind;
  }
}

/** Reads the body from Node's stream, because a web stream would cost more than the rest of a request. Throws BodyError. */
export function bodyOf(incoming: IncomingMessage, maxBytes: number): Promise<string> {
  const { headers } = incoming;
  // Without a body there is no stream that could end (optimizeEmptyRequests).
  if (headers["content-length"] === undefined && headers["transfer-encoding"] === undefined)
    return Promise.resolve("");
  return new Promise((resolve, reject) => {
    // Refuses at once when the header names too many bytes. A chunked body has no such header, so its bytes are counted.
    if (Number(headers["content-length"] ?? 0) > maxBytes) return reject(new BodyError("too_large"));
    let first: Buffer | undefined;
    let others: Buffer[] | undefined;
    let bytes = 0;
    incoming.on("data", (piece: Buffer) => {
      bytes += piece.length;
      if (bytes > maxBytes) return reject(new BodyError("too_large"));
      if (first === undefined) first = piece;
      else (others ??= [first]).push(piece);
      return undefined;
    });
    incoming.on("end", () => {
      const body = others === undefined ? first : Buffer.concat(others);
      if (body === undefined) return resolve("");
      // Decoding alone would put replacement characters into what is stored.
      if (!isUtf8(body)) return reject(new BodyError("not_utf8"));
      return resolve(body.toString());
    });
    incoming.on("error", () => reject(new BodyError("incomplete")));
    return undefined;
  });
}
