/**
 * What the HTTP servers of all roles share: they serve a hono app with node:http, listen and drain. The only door to
 * @hono/node-server. How they treat a connection: connections.ts.
 */
import { once } from "node:events";
import {
  createServer,
  type IncomingMessage,
  type RequestListener,
  type Server,
  type ServerResponse,
  STATUS_CODES,
} from "node:http";
import type { Socket } from "node:net";
import { pipeline, type Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { getRequestListener, type HttpBindings } from "@hono/node-server";
import { RESPONSE_ALREADY_SENT } from "@hono/node-server/utils/response";
import { answerClass, Connections, type ConnectionShed } from "./connections.ts";

export type { HttpBindings };

/** The type of `context.env` in a hono handler: Node's own request and response. */
export interface HttpEnv {
  Bindings: HttpBindings;
}

/** Node.js refuses longer headers before they become a request. */
const HEADERS_MAX_BYTES = 16 * 1024;

/** They cut off a client that is slow on purpose (Node.js manual, http.createServer). */
const LIMITS = {
  maxHeaderSize: HEADERS_MAX_BYTES,
  headersTimeout: 10_000,
  requestTimeout: 15_000,
  connectionsCheckingInterval: 5_000,
  keepAliveTimeout: 65_000,
  // It is refused here, with a document.
  requireHostHeader: false,
  // No stream for a request without a body. This saves 2 µs a read.
  optimizeEmptyRequests: true,
};

const DRAIN_REQUESTS_MAX_MS = 10_000;
const DRAIN_IDLE_CHECK_MS = 20;

const draining = new WeakSet<Server>();

export type Fetch = (request: Request, env: HttpBindings) => Response | Promise<Response>;

/** The answer to what the app never sees. */
export interface Refusal {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

export interface ServedApp {
  readonly fetch: Fetch;
  /** Refuses what is no valid HTTP. The request is undefined when there is none. */
  readonly refuse: (why: string, incoming?: IncomingMessage) => Refusal;
  /** Wraps the listener, so that it sees each request before the app. */
  readonly wrap?: (listener: RequestListener) => RequestListener;
  /** Open connections. One more is closed at once. */
  readonly connectionsMax: number;
  /** Hears of each connection that was refused or cut off. */
  readonly shed?: (reason: ConnectionShed) => void;
}

/**
 * Sends what comes from a stream, in the client's pace, and returns what the handler then answers. A stream that fails breaks the
 * connection, so the client sees that its answer is not whole; a client that leaves destroys the stream.
 */
export function streamed(
  outgoing: ServerResponse,
  headers: Readonly<Record<string, string>>,
  content: Readable,
): Response {
  outgoing.writeHead(200, headers);
  // The client has left, or sees what has happened.
  pipeline(content, outgoing, () => undefined);
  return RESPONSE_ALREADY_SENT;
}

/** A server for the app; it does not listen yet. */
export function createHttpServer(app: ServedApp): Server {
  const { fetch, refuse, shed = () => undefined, wrap = (listener) => listener } = app;
  const refused = (why: string, incoming?: IncomingMessage): Response => {
    const { status, headers, body } = refuse(why, incoming);
    return new Response(body, { status, headers });
  };
  const checked: Fetch = (request, env) => {
    const fault = faultIn(env.incoming);
    return fault === undefined ? fetch(request, env) : refused(fault, env.incoming);
  };
  // The adapter's type also allows HTTP/2, which this project does not serve.
  const serve = getRequestListener(checked as Parameters<typeof getRequestListener>[0], {
    // The adapter's URL needs a host, and HTTP/1.0 requires no Host header (RFC 9112 §3.2).
    hostname: "localhost",
    errorHandler: () => refused("The address or the Host header is not valid."),
    // Connections hang up on who is still sending.
    autoCleanupIncoming: false,
  });
  const listener = wrap((incoming, outgoing) => {
    // A draining server sends its clients elsewhere, with a new connection. One that stayed would meet the server's end.
    if (draining.has(server)) outgoing.shouldKeepAlive = false;
    void serve(incoming, outgoing);
  });
  const connections = new Connections(listener, shed);
  const server = createServer({ ...LIMITS, ServerResponse: answerClass(() => shed("answer_unread")) });
  // Each event's only listener: with two, Node.js would copy their list for every request.
  server.on("request", connections.request);
  // Without these, Node.js would say 100 to everybody, and 417 to other expectations, without a problem document.
  server.on("checkContinue", connections.request);
  server.on("checkExpectation", connections.request);
  server.on("clientError", (error, stream) => {
    const socket = stream as Socket;
    // Clients open connections in advance. A refusal on one would look like the answer to a request that is on its way.
    connections.broke(socket, () => (socket.bytesRead === 0 ? "" : textOf(refuse(reasonOf(error)))));
  });
  server.on("connect", ({ socket }) => {
    // Node.js leaves this connection, and its errors, to us.
    socket.on("error", () => socket.destroy());
    connections.broke(socket, () => textOf(refuse("This server is no proxy.")));
  });
  server.maxConnections = app.connectionsMax;
  server.on("drop", () => shed("connections_full"));
  // Who has sent all and closes that half of the connection still gets an answer.
  return Object.assign(server, { httpAllowHalfOpen: true });
}

/** Of these, Node.js would take the first line and drop others. Two lengths are refused by its parser (RFC 9112 §3.2, §6.3). */
function faultIn({ headers, rawHeaders, httpVersion }: IncomingMessage): string | undefined {
  if (headers.host === undefined && httpVersion === "1.1") return "The Host header is missing.";
  let seen = 0;
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const name = rawHeaders[index] as string;
    const { length } = name;
    // By far most names are told apart by their length.
    if (length !== 4 && length !== 12 && length !== 13) continue;
    const lower = name.toLowerCase();
    if (lower !== "host" && lower !== "content-type" && lower !== "authorization") continue;
    if ((seen & (1 << length)) !== 0) return `The ${lower} header is there twice.`;
    seen |= 1 << length;
  }
  return undefined;
}

function reasonOf({ code }: NodeJS.ErrnoException): string {
  if (code === "HPE_HEADER_OVERFLOW")
    return `The request's headers have more than ${HEADERS_MAX_BYTES} bytes.`;
  if (code === "ERR_HTTP_REQUEST_TIMEOUT") return "The request did not arrive in time.";
  return "The request is not valid HTTP.";
}

/** The bytes of an answer that no handler makes. */
function textOf({ status, headers, body }: Refusal): string {
  const all = {
    ...headers,
    date: new Date().toUTCString(),
    "content-length": String(Buffer.byteLength(body)),
    connection: "close",
  };
  const head = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`);
  return `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${head.join("")}\r\n${body}`;
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
 * Stops a server. Resolves when it has answered the last request. For `graceMs` it still serves, and ends each connection after
 * its next answer, while clients see at `/readyz` that it drains (drainGraceMs in config.ts). Then it accepts no connection, finishes the requests under way, and
 * cuts off a client that is too slow. `Server.close` ends only connections that are idle at that moment; the interval ends
 * the others.
 */
export async function drain(server: Server, graceMs: number): Promise<void> {
  draining.add(server);
  await sleep(graceMs);
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  const idle = setInterval(() => server.closeIdleConnections(), DRAIN_IDLE_CHECK_MS);
  const cutOff = setTimeout(() => server.closeAllConnections(), DRAIN_REQUESTS_MAX_MS);
  await closed;
  clearInterval(idle);
  clearTimeout(cutOff);
}
