/**
 * A TCP proxy in front of PostgreSQL that lets a test decide what becomes of one request: whether the server ever gets it,
 * whether the client ever gets the answer, and in which order the two happen.
 */
import type { Socket } from "node:net";
import { eventually } from "../support/eventually.ts";
import { startRelay } from "../support/proxy.ts";

/** Sync ends a request, ReadyForQuery its answer, and Terminate the connection (PostgreSQL manual §54.7). */
const SYNC = Buffer.from([0x53, 0, 0, 0, 4]);
/** Ends what only prepares a statement: nothing is executed before the next Sync. */
const FLUSH = Buffer.from([0x48, 0, 0, 0, 4]);
const TERMINATE = Buffer.from([0x58, 0, 0, 0, 4]);
const READY = Buffer.from([0x5a, 0, 0, 0, 5, 0x49]);

/** A whole request that has reached the proxy and nobody else yet. */
export interface Intercepted {
  /** Gives it to the server. Resolves when the server has answered it, and so has committed; the answer is kept back. */
  deliver(): Promise<void>;
  /** Gives the client the answer that was kept back, and lets its connection alone from here on. */
  answer(): void;
  /** Breaks the client's connection. */
  cut(): void;
}

export interface FaultyProxy extends AsyncDisposable {
  /** The given URL by way of the proxy. */
  readonly url: string;
  /** Resolves with the next request that contains `text`, which then goes nowhere by itself. */
  intercept(text: string): Promise<Intercepted>;
  /** Breaks every new connection from here on. */
  refuse(): void;
  /** Lets connections through again. */
  accept(): void;
}

export async function startFaultyProxy(url: string): Promise<FaultyProxy> {
  const waiting: { text: string; resolve: (intercepted: Intercepted) => void }[] = [];
  let isRefusing = false;
  const relay = await startRelay(url, (client, server) => {
    if (isRefusing) {
      client.destroy();
      server.destroy();
      return;
    }
    new Link(client, server, (request) => {
      const index = waiting.findIndex(({ text }) => request.includes(text));
      return index < 0 ? undefined : waiting.splice(index, 1)[0]?.resolve;
    });
  });
  return {
    ...relay,
    intercept: (text) => new Promise((resolve) => waiting.push({ text, resolve })),
    refuse: () => void (isRefusing = true),
    accept: () => void (isRefusing = false),
  };
}

/** One connection of a client, and the proxy's own to the server for it. */
class Link {
  readonly #client: Socket;
  readonly #server: Socket;
  /** What the client sent since its last whole request. */
  #request: Buffer = Buffer.alloc(0);
  /** The answer to an intercepted request; undefined while everything is let through. */
  #kept: Buffer | undefined;
  #isLoggedIn = false;
  /** Statements that were prepared by themselves, under a name that later requests have in place of their text. */
  readonly #prepared: { readonly name: Buffer; readonly request: Buffer }[] = [];

  constructor(
    client: Socket,
    server: Socket,
    interestIn: (request: Buffer) => ((intercepted: Intercepted) => void) | undefined,
  ) {
    this.#client = client;
    this.#server = server;
    client.on("data", (chunk: Buffer) => {
      this.#request = Buffer.concat([this.#request, chunk]);
      if (this.#isLoggedIn && endsWith(this.#request, FLUSH)) {
        const name = this.#request.subarray(5, this.#request.indexOf(0, 5));
        this.#prepared.push({ name, request: this.#request });
        server.write(this.#request);
        this.#request = Buffer.alloc(0);
        return;
      }
      if (this.#isLoggedIn && !endsWith(this.#request, SYNC) && !endsWith(this.#request, TERMINATE)) return;
      const request = this.#request;
      this.#request = Buffer.alloc(0);
      const named = this.#prepared.filter(({ name }) => request.includes(name));
      const take = interestIn(Buffer.concat([request, ...named.map((statement) => statement.request)]));
      if (take === undefined) server.write(request);
      else this.#intercept(request, take);
    });
    server.on("data", (chunk: Buffer) => {
      this.#isLoggedIn ||= endsWith(chunk, READY);
      if (this.#kept === undefined) client.write(chunk);
      else this.#kept = Buffer.concat([this.#kept, chunk]);
    });
    // An intercepted request outlives its client: it is the test that says whether the server gets it.
    client.on("close", () => {
      if (this.#kept === undefined) server.destroy();
    });
    server.on("close", () => client.destroy());
  }

  #intercept(request: Buffer, take: (intercepted: Intercepted) => void): void {
    this.#kept = Buffer.alloc(0);
    take({
      deliver: async () => {
        this.#server.write(request);
        await eventually("the server answers", () => endsWith(this.#kept ?? READY, READY));
      },
      answer: () => {
        this.#client.write(this.#kept ?? "");
        this.#kept = undefined;
      },
      cut: () => this.#client.destroy(),
    });
  }
}

function endsWith(data: Buffer, end: Buffer): boolean {
  return data.subarray(-end.length).equals(end);
}
