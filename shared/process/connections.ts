/**
 * What one connection may ask of a server, and how a server hangs up.
 *
 * The requests of a connection are begun one after another, each when the answer before it is with the operating system. So
 * nobody has more work under way than connections, and who does not read does not get more answers made. What a client sends
 * ahead waits here, within bounds (pipelining, RFC 9112 §9.3.2). Why so: docs/decisions/0019-one-request-at-a-time.md.
 */
import { isUtf8 } from "node:buffer";
import { type IncomingMessage, type RequestListener, ServerResponse } from "node:http";
import type { Socket } from "node:net";

/** Requests that a client may send ahead of the answers to those before. */
export const AHEAD_MAX = 100;
/** The same over all connections of a server. */
const AHEAD_IN_ALL_MAX = 2_000;
/** A client has so long to take an answer, or what a stream has for it. */
export const ANSWER_READ_MAX_MS = 30_000;
/** After its last answer a connection stays open for so long, and takes so much, while its client still sends. */
const GOODBYE_MAX_MS = 2_000;
const GOODBYE_MAX_BYTES = 4 * 1024 * 1024;

export const CONNECTION_SHED = ["connections_full", "ahead_full", "answer_unread"] as const;
/** Why a connection was refused or cut off. */
export type ConnectionShed = (typeof CONNECTION_SHED)[number];

interface Ahead {
  readonly incoming: IncomingMessage;
  readonly outgoing: ServerResponse;
}

const UNDER_WAY = Symbol("response under way");
const AHEAD = Symbol("requests that wait");
const BROKEN = Symbol("sends what is no request");
interface ServedSocket extends Socket {
  [UNDER_WAY]?: ServerResponse;
  [AHEAD]?: Ahead[];
  [BROKEN]?: true;
}

/** The connections of one server. */
export class Connections {
  readonly #begin: RequestListener;
  readonly #shed: (reason: ConnectionShed) => void;
  #ahead = 0;

  constructor(begin: RequestListener, shed: (reason: ConnectionShed) => void) {
    this.#begin = begin;
    this.#shed = shed;
  }

  /** Begins a request, or lets it wait for the answer to the one before. */
  readonly request = (incoming: IncomingMessage, outgoing: ServerResponse): void => {
    const socket: ServedSocket = incoming.socket;
    const before = socket[UNDER_WAY];
    if (before !== undefined && !before.closed) {
      this.#wait(socket, before, { incoming, outgoing });
      return;
    }
    socket[UNDER_WAY] = outgoing;
    this.#begin(incoming, outgoing);
  };

  #wait(socket: ServedSocket, before: ServerResponse, request: Ahead): void {
    // Node.js still reads what came with the request that was one too many.
    if (socket.destroyed) return;
    const ahead = (socket[AHEAD] ??= []);
    if (ahead.length === AHEAD_MAX || this.#ahead === AHEAD_IN_ALL_MAX) {
      this.#shed("ahead_full");
      socket.destroy();
      return;
    }
    this.#ahead += 1;
    if (ahead.push(request) === 1) before.once("close", () => this.#goOn(socket, ahead));
  }

  #goOn(socket: ServedSocket, ahead: Ahead[]): void {
    // Nobody reads an answer any more, or the answer before said that it is the last one.
    if (!socket.writable) this.#ahead -= ahead.splice(0).length;
    const next = ahead.shift();
    if (next === undefined) return;
    this.#ahead -= 1;
    const { incoming, outgoing } = next;
    socket[UNDER_WAY] = outgoing;
    if (ahead.length > 0) outgoing.once("close", () => this.#goOn(socket, ahead));
    this.#begin(incoming, outgoing);
  }

  /**
   * The client sends what is no request. Hangs up after the answers that are still due, or else with `refusal`, which is made
   * only then: in the middle of an answer it would look like a part of it.
   */
  broke(socket: ServedSocket, refusal: () => string): void {
    // It is closed, or about to be.
    if (!socket.writable) return;
    // Nothing that follows is understood either.
    socket.pause();
    if (socket[BROKEN]) return;
    socket[BROKEN] = true;
    const ahead = socket[AHEAD] ?? [];
    const newest = ahead.at(-1)?.outgoing ?? socket[UNDER_WAY];
    const isBroken = newest !== undefined && bodyIsUnderWay(newest.req);
    // A request that waits is not begun without its body. One that was begun, and needs it, is told.
    if (isBroken && ahead.length > 0) this.#ahead -= ahead.splice(-1).length;
    else if (isBroken) (newest.req as WithBody)[BODY_FAILED]?.();
    const last = ahead.at(-1)?.outgoing ?? socket[UNDER_WAY];
    if (last === undefined || last.closed) {
      // The rest of a body whose request has its answer gets no other.
      hangUp(socket, isBroken ? "" : refusal());
      return;
    }
    last.shouldKeepAlive = false;
    socket.destroySoon = () => hangUp(socket);
    last.once("close", () => hangUp(socket));
  }
}

/** A response whose client must take it in time, and may still send when it leaves. `unread` hears of each that is cut off. */
export function answerClass(unread: () => void) {
  return class Answer extends ServerResponse {
    declare cutOff?: NodeJS.Timeout;

    override writeHead(status: number, reason?: unknown, headers?: unknown): this {
      if (bodyIsUnderWay(this.req)) {
        const { socket } = this.req;
        this.shouldKeepAlive = false;
        // Node.js would close at once, and what the client still sends would take the answer from it (RFC 9112 §9.6).
        socket.destroySoon = () => hangUp(socket);
      }
      return super.writeHead(status, reason as string, headers as string[]);
    }

    override write(chunk: unknown, encoding?: unknown, done?: unknown): boolean {
      const isTaken = super.write(chunk, encoding as BufferEncoding, done as () => void);
      if (!isTaken) this.mustBeRead();
      return isTaken;
    }

    /** ASCII text, which is nearly all text, leaves as latin1. The bytes are the same, and a copy is cheaper than an encoding. */
    override end(chunk?: unknown, encoding?: unknown, done?: () => void): this {
      const isAscii =
        typeof chunk === "string" && encoding === undefined && Buffer.byteLength(chunk) === chunk.length;
      super.end(chunk, isAscii ? "latin1" : (encoding as BufferEncoding), done);
      if (this.socket !== null && this.socket.writableLength > 0) this.mustBeRead();
      return this;
    }

    /** Cuts the client off unless it takes in time what is there for it. Most answers never come here. */
    mustBeRead(): void {
      if (this.cutOff !== undefined) return;
      this.cutOff = setTimeout(() => {
        if (this.closed) return;
        unread();
        this.destroy();
      }, ANSWER_READ_MAX_MS).unref();
      this.once("drain", () => {
        clearTimeout(this.cutOff);
        delete this.cutOff;
      });
    }
  };
}

/** A body that has arrived and was not read is whole, although Node.js may not have said so yet. */
function bodyIsUnderWay({ complete, headers, readableLength }: IncomingMessage): boolean {
  return (
    !complete &&
    (headers["transfer-encoding"] !== undefined || Number(headers["content-length"] ?? 0) > readableLength)
  );
}

/** Closes after the answers, and `last`, have left. Reads on for a moment, so that a client that still sends can read them. */
function hangUp(socket: Socket, last = ""): void {
  if (socket.writableEnded) return;
  if (last !== "") socket.write(last);
  socket.end();
  const over = setTimeout(() => socket.destroy(), GOODBYE_MAX_MS);
  socket.once("close", () => clearTimeout(over));
  // What follows is no part of a request: the parser must not see it.
  socket.removeAllListeners("data");
  let bytes = 0;
  socket.on("data", (piece: Buffer) => {
    bytes += piece.length;
    if (bytes > GOODBYE_MAX_BYTES) socket.destroy();
  });
  socket.resume();
}

/** A body is longer than allowed, did not arrive whole, or its bytes are no text. */
export class BodyError extends Error {
  override readonly name = "BodyError";
  readonly kind: "too_large" | "incomplete" | "not_utf8";

  constructor(kind: BodyError["kind"]) {
    super(`the body is ${kind}`);
    this.kind = kind;
  }
}

const BODY_FAILED = Symbol("the body will not arrive");
interface WithBody extends IncomingMessage {
  [BODY_FAILED]?: () => void;
}

/**
 * Reads the body of a request that was begun from Node's stream, because a web stream would cost more than the rest of a
 * request. Only now a client that waits for `100 Continue` is told to send it: who is refused before sends none. Throws
 * BodyError.
 */
export function bodyOf(incoming: WithBody, maxBytes: number): Promise<string> {
  const { headers } = incoming;
  const socket: ServedSocket = incoming.socket;
  // Without a body there is no stream that could end (optimizeEmptyRequests).
  if (headers["content-length"] === undefined && headers["transfer-encoding"] === undefined)
    return Promise.resolve("");
  return new Promise((resolve, reject) => {
    // Refuses at once when the header names too many bytes. A chunked body has no such header, so its bytes are counted.
    if (Number(headers["content-length"] ?? 0) > maxBytes) return reject(new BodyError("too_large"));
    if (socket[BROKEN] && !incoming.complete) return reject(new BodyError("incomplete"));
    if (headers.expect?.toLowerCase() === "100-continue" && incoming.httpVersion === "1.1")
      socket[UNDER_WAY]?.writeContinue();
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
    incoming[BODY_FAILED] = () => reject(new BodyError("incomplete"));
    incoming.on("error", () => reject(new BodyError("incomplete")));
    return undefined;
  });
}
