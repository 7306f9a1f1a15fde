/**
 * What the HTTP servers of all roles share: how a hono app is served by node:http, how it listens, how a body is read, and
 * how it stops. The only door to @hono/node-server.
 */
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

/** What a hono handler finds in `context.env`: Node's own request and answer. */
export interface HttpEnv {
  Bindings: HttpBindings;
}

/** Headers beyond it are refused before a request is made of them. */
export const HEADERS_MAX_BYTES = 16 * 1024;

/** A client that is slow on purpose loses its connection (Node.js manual, http.createServer). */
const LIMITS = {
  maxHeaderSize: HEADERS_MAX_BYTES,
  headersTimeout: 10_000,
  requestTimeout: 15_000,
  connectionsCheckingInterval: 5_000,
  keepAliveTimeout: 65_000,
  // The app answers with a problem document.
  requireHostHeader: false,
  // A request without a body needs no stream; this saves a read 2 µs.
  optimizeEmptyRequests: true,
};

const DRAIN_REQUESTS_MAX_MS = 10_000;
const DRAIN_IDLE_CHECK_MS = 20;

export type Fetch = (request: Request, env: HttpBindings) => Response | Promise<Response>;
/** The same, as the adapter sees it: it also serves HTTP/2, which this project does not. */
type FetchCallback = Parameters<typeof getRequestListener>[0];

export interface ServedApp {
  readonly fetch: Fetch;
  /** Answers a request whose address or Host header is no URL. */
  readonly badRequest: () => Response;
  /** Wraps the listener, to see each request before the app does. */
  readonly wrap?: (listener: RequestListener) => RequestListener;
}

/** Clients may send requests before they have the answers to those before (pipelining, RFC 9112 §9.3.2). */
const NEWEST = Symbol("newest answer");
const BEFORE = Symbol("answer before the newest");
interface AnsweringSocket extends Socket {
  [NEWEST]?: ServerResponse;
  [BEFORE]?: ServerResponse | undefined;
}

/** The answer to a connection's newest request, and the one before. They are given in order, so no older one matters. */
export function answersOn(
  socket: Socket,
): readonly [newest?: ServerResponse, before?: ServerResponse | undefined] {
  const { [NEWEST]: newest, [BEFORE]: before } = socket as AnsweringSocket;
  return newest === undefined ? [] : [newest, before];
}

/**
 * Node's answer, but text that is ASCII, as nearly all of it is, goes out as latin1: the bytes are the same, and copying them
 * is cheaper than encoding them.
 */
class Answer extends ServerResponse {
  override end(chunk?: unknown, encoding?: unknown, done?: () => void): this {
    if (typeof chunk === "string" && encoding === undefined && Buffer.byteLength(chunk) === chunk.length)
      return super.end(chunk, "latin1", done);
    return super.end(chunk, encoding as BufferEncoding, done);
  }
}

/** A server for the app; it does not listen yet. */
export function createHttpServer({ fetch, badRequest, wrap = (listener) => listener }: ServedApp): Server {
  const serve = getRequestListener(fetch as FetchCallback, {
    // HTTP/1.0 requires no Host header (RFC 9112 §3.2); the adapter builds its URL with this one.
    hostname: "localhost",
    errorHandler: badRequest,
  });
  // The only listener of this event: two would have Node.js copy their list for every request.
  const listener = wrap((incoming, outgoing) => {
    const socket = incoming.socket as AnsweringSocket;
    socket[BEFORE] = socket[NEWEST];
    socket[NEWEST] = outgoing;
    // A draining server tells its clients to turn elsewhere.
    if (!server.listening) outgoing.setHeader("connection", "close");
    void serve(incoming, outgoing);
  });
  const server = createServer({ ...LIMITS, ServerResponse: Answer }, listener);
  return server;
}

/** Listens, and resolves with the URL at which this machine reaches the server; port 0 takes a free one. */
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
 * Stops a server; resolves when the last request is answered. For `graceMs` the server serves on as before, while whoever
 * sends requests here sees that it drains and turns elsewhere (drainGraceMs in config.ts). Then no new connection is
 * accepted, requests under way finish, and a client that is too slow is cut off. `Server.close` ends only the connections
 * that are idle at that moment; those that become idle later are ended here.
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

/** Why a body could not be read: it is longer than allowed, or the client left in the middle of it. */
export class BodyError extends Error {
  override readonly name = "BodyError";
  readonly kind: "too_large" | "incomplete";

  constructor(kind: BodyError["kind"]) {
    super(`the body is ${kind}`);
    this.kind = kind;
  }
}

/** The body of a request, read once off Node's stream: a web stream would cost more than the rest. Throws BodyError. */
export function bodyOf(incoming: IncomingMessage, maxBytes: number): Promise<string> {
  const { headers } = incoming;
  // Such a request has no stream that could end (optimizeEmptyRequests).
  if (headers["content-length"] === undefined && headers["transfer-encoding"] === undefined)
    return Promise.resolve("");
  return new Promise((resolve, reject) => {
    // A refusal at once, where the client says how much will come. A chunked body says nothing and is counted.
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
    incoming.on("end", () =>
      resolve(others === undefined ? (first?.toString() ?? "") : Buffer.concat(others).toString()),
    );
    incoming.on("error", () => reject(new BodyError("incomplete")));
    return undefined;
  });
}
