/** The HTTP server of all roles, over real sockets, with an app that the test answers for. */
import { once } from "node:events";
import { Agent, get as httpGet, type IncomingMessage, type Server } from "node:http";
import { connect, type Socket } from "node:net";
import { text } from "node:stream/consumers";
import { afterEach, describe, expect, test, vi } from "vitest";
import {
  AHEAD_MAX,
  ANSWER_READ_MAX_MS,
  bodyOf,
  type BodyError,
  type ConnectionShed,
} from "../../shared/process/connections.ts";
import { createHttpServer, drain, type Fetch, listen } from "../../shared/process/http-server.ts";
import { eventually } from "../support/eventually.ts";
import { tally } from "../support/running-cluster.ts";

interface Served extends AsyncDisposable {
  readonly port: number;
  readonly shed: ConnectionShed[];
  /** What the app was asked, by method and address. */
  readonly begun: string[];
  readonly server: Server;
}

async function serveWith(
  answer: (incoming: IncomingMessage) => Response | Promise<Response>,
): Promise<Served> {
  const shed: ConnectionShed[] = [];
  const begun: string[] = [];
  const fetch: Fetch = (_request, { incoming }) => {
    begun.push(`${incoming.method} ${incoming.url}`);
    return answer(incoming);
  };
  const server = createHttpServer({
    fetch,
    refuse: (why) => ({ status: 400, headers: { "x-refused": "yes" }, body: why }),
    connectionsMax: 1_000,
    shed: (reason) => shed.push(reason),
  });
  const url = await listen(server, { host: "127.0.0.1", port: 0 });
  return {
    port: Number(new URL(url).port),
    server,
    shed,
    begun,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

const get = (path: string, headers = "") => `GET ${path} HTTP/1.1\r\nhost: x\r\n${headers}\r\n`;
const post = (path: string, body: string, headers = "") =>
  `POST ${path} HTTP/1.1\r\nhost: x\r\ncontent-length: ${body.length}\r\n${headers}\r\n${body}`;

function dial({ port }: Served, bytes: string | Buffer): Socket {
  const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true }).on("error", () => undefined);
  socket.write(bytes);
  return socket;
}

/** Everything that the server says until it hangs up. */
async function heard(served: Served, bytes: string | Buffer): Promise<string> {
  return text(dial(served, bytes));
}

const statuses = (answers: string) => [...answers.matchAll(/HTTP\/1\.1 (\d{3})/g)].map((match) => match[1]);

/** Waits as `eventually` does, where time stands still. */
async function turn(until: () => boolean): Promise<void> {
  while (!until()) await new Promise(setImmediate);
}

/** An answer that the test gives when it wants. */
function later() {
  const { promise, resolve } = Promise.withResolvers<Response>();
  return { promise, answer: (body: string) => resolve(new Response(body, { headers: {} })) };
}

const LARGE = "x".repeat(8 * 1024 * 1024);

describe("requests ahead", () => {
  test("F2: the requests of a connection are begun one after another, and answered in order", async () => {
    const first = later();
    await using served = await serveWith(({ url }) => (url === "/1" ? first.promise : new Response(url)));
    const answers = heard(served, get("/1") + get("/2") + get("/3", "connection: close\r\n"));
    const other = heard(served, get("/other", "connection: close\r\n"));

    expect(statuses(await other)).toEqual(["200"]);
    expect(served.begun).toEqual(["GET /1", "GET /other"]);
    first.answer("one");
    expect([...(await answers).matchAll(/one|\/2|\/3/g)].map(String)).toEqual(["one", "/2", "/3"]);
    expect(served.begun).toEqual(["GET /1", "GET /other", "GET /2", "GET /3"]);
  });

  test("F2: a client that does not read gets no further answers made", async () => {
    await using served = await serveWith(() => new Response(LARGE));
    const socket = dial(served, get("/large").repeat(20));
    socket.pause();
    await eventually("the first request is begun", () => served.begun.length > 0);
    // Who comes later is answered, so the server had time for more.
    for (let index = 0; index < 5; index += 1) {
      const answer = await heard(served, get("/other", "connection: close\r\n"));
      expect(answer.length).toBeGreaterThan(LARGE.length);
    }
    expect(served.begun.filter((asked) => asked === "GET /large")).toHaveLength(1);
    socket.resume();
    await eventually("all are answered once it reads", () => served.begun.length === 25);
  });

  test("F2: more requests ahead than a connection may send end it, and their places are free again", async () => {
    const first = later();
    await using served = await serveWith(({ url }) => (url === "/slow" ? first.promise : new Response("")));
    const within = dial(served, get("/slow") + get("/ahead").repeat(AHEAD_MAX));
    for (let round = 0; round < 50; round += 1) {
      const beyond = dial(served, get("/slow") + get("/ahead").repeat(5 * AHEAD_MAX));
      await eventually("it is closed", () => beyond.destroyed || beyond.readableEnded);
      beyond.destroy();
    }
    const after = dial(served, get("/slow") + get("/ahead").repeat(AHEAD_MAX));
    await eventually("it is begun", () => served.begun.length === 52);
    expect(tally(served.shed)).toEqual({ ahead_full: 50 });
    expect(tally(served.begun)).toEqual({ "GET /slow": 52 });
    first.answer("");
    await eventually("those within the bound are answered", () => served.begun.length === 52 + 2 * AHEAD_MAX);
    after.destroy();
    within.destroy();
  });

  test("F2: requests ahead are bounded over all connections, and harm nobody who sends none", async () => {
    const first = later();
    await using served = await serveWith(({ url }) => (url === "/slow" ? first.promise : new Response("")));
    const sockets = Array.from({ length: 50 }, () =>
      dial(served, get("/slow") + get("/ahead").repeat(AHEAD_MAX)),
    );
    await eventually("the surplus is cut off", () => served.shed.length === 30);
    expect(statuses(await heard(served, get("/other", "connection: close\r\n")))).toEqual(["200"]);
    for (const socket of sockets) socket.destroy();
  });
});

describe("answers that nobody reads", () => {
  afterEach(() => void vi.useRealTimers());

  test("F2: a client that does not take its answer is cut off; a slow answer and a slow reader are not", async () => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    const slow = later();
    await using served = await serveWith(({ url }) => (url === "/slow" ? slow.promise : new Response(LARGE)));
    const unread = dial(served, get("/large"));
    const patient = heard(served, get("/slow", "connection: close\r\n"));
    const reader = dial(served, get("/large"));
    await turn(() => served.begun.length === 3 && vi.getTimerCount() === 2);
    await vi.advanceTimersByTimeAsync(ANSWER_READ_MAX_MS - 1);
    let read = 0;
    reader.on("data", (piece: Buffer) => void (read += piece.length));
    await turn(() => read > LARGE.length);
    expect(served.shed).toEqual([]);

    await vi.advanceTimersByTimeAsync(1);
    expect(served.shed).toEqual(["answer_unread"]);
    expect((await text(unread)).length).toBeLessThan(LARGE.length);
    slow.answer("at last");
    expect(await patient).toContain("at last");
    reader.write(get("/slow", "connection: close\r\n"));
    await turn(() => reader.readableEnded);
  });

  test("F2: a stream lives as long as its client reads what it has, however long that takes", async () => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    let stream: ReadableStreamDefaultController<Uint8Array> | undefined;
    const source = () =>
      new ReadableStream<Uint8Array>({ start: (controller) => void (stream = controller) });
    await using served = await serveWith(() => new Response(source(), { headers: { "x-stream": "yes" } }));
    const socket = dial(served, get("/stream"));
    let read = 0;
    socket.on("data", (piece: Buffer) => void (read += piece.length));
    const piece = Buffer.from(LARGE);
    for (let round = 1; round <= 3; round += 1) {
      await turn(() => stream !== undefined);
      stream?.enqueue(piece);
      await turn(() => read > round * LARGE.length);
      await vi.advanceTimersByTimeAsync(2 * ANSWER_READ_MAX_MS);
    }
    expect(served.shed).toEqual([]);
    socket.pause();
    for (let round = 0; round < 3; round += 1) stream?.enqueue(piece);
    await turn(() => vi.getTimerCount() > 0);
    await vi.advanceTimersByTimeAsync(ANSWER_READ_MAX_MS);
    expect(served.shed).toEqual(["answer_unread"]);
  });
});

describe("what is no request", () => {
  test("S2: what follows a request answers neither in its place nor after it, however it is broken", async () => {
    for (const [what, rest] of [
      ["garbage", "GARBAGE\r\n\r\n"],
      ["CONNECT", "CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\n"],
      [
        "a request with a broken body",
        `POST /2 HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n`,
      ],
      ["long garbage", "GARBAGE\r\n\r\n".repeat(100_000)],
    ] as const) {
      const first = later();
      await using served = await serveWith(async (incoming) => {
        await bodyOf(incoming, 100);
        return first.promise;
      });
      const answers = heard(served, post("/1", "body") + rest);
      await eventually(`${what}: the first is begun`, () => served.begun.length > 0);
      first.answer("mine");
      expect([what, statuses(await answers)]).toEqual([what, ["200"]]);
      expect(served.begun).toEqual(["POST /1"]);
    }
  });

  test("S2: an answer that needs no body is given although the body breaks", async () => {
    const first = later();
    await using served = await serveWith(() => first.promise);
    const answers = heard(served, "POST /1 HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n");
    await eventually("it is begun", () => served.begun.length > 0);
    first.answer("mine");
    expect(statuses(await answers)).toEqual(["200"]);
  });

  test("S2: a body that breaks before or while it is read is refused by who reads it", async () => {
    for (const pause of [true, false]) {
      const reading = later();
      await using served = await serveWith(async (incoming) => {
        if (pause) await reading.promise;
        return bodyOf(incoming, 100).then(
          () => new Response("whole"),
          (error: unknown) => new Response((error as BodyError).kind, { status: 422 }),
        );
      });
      const answers = heard(
        served,
        "POST /1 HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
      );
      await eventually("it is begun", () => served.begun.length > 0);
      reading.answer("");
      expect(await answers).toMatch(/^HTTP\/1\.1 422 [^]*incomplete$/);
    }
  });

  test("S2: CONNECT is refused, and a client that resets the connection then ends no process", async () => {
    const faults: unknown[] = [];
    const caught = (error: unknown) => void faults.push(error);
    process.on("uncaughtException", caught);
    await using served = await serveWith(() => new Response(""));
    const ask = "CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\n";
    expect(await heard(served, ask)).toMatch(/^HTTP\/1\.1 400 [^]*x-refused: yes[^]*content-length/);
    for (let index = 0; index < 10; index += 1) {
      const socket = dial(served, ask);
      await once(socket, "data");
      socket.resetAndDestroy();
    }
    await eventually("all are gone", async () => (await connectionsOf(served.server)) === 0);
    process.off("uncaughtException", caught);
    expect(faults).toEqual([]);
  });

  test("S2: two lines of a header that there can be only one of are refused", async () => {
    await using served = await serveWith(() => new Response("served"));
    for (const lines of [
      "Host: y\r\n",
      "content-type: a/b\r\nContent-Type: a/b\r\n",
      "authorization: a\r\nAuthorization: a\r\n",
      "content-length: 0\r\ncontent-length: 0\r\n",
    ])
      expect([lines, statuses(await heard(served, get("/", `${lines}connection: close\r\n`)))]).toEqual([
        lines,
        ["400"],
      ]);
    expect(await heard(served, "GET / HTTP/1.1\r\nconnection: close\r\n\r\n")).toContain("Host");
    const several =
      "accept: a\r\naccept: b\r\nfrom: c\r\ndate: d\r\nif-none-match: e\r\nif-none-match: f\r\n";
    expect(await heard(served, get("/", `${several}connection: close\r\n`))).toContain("served");
    expect(await heard(served, "GET / HTTP/1.0\r\n\r\n")).toContain("served");
    expect(served.begun).toHaveLength(2);
  });

  test("F5: a client that closes its half after asking gets its answers", async () => {
    const first = later();
    await using served = await serveWith(async ({ url }) =>
      url === "/1" ? first.promise : new Response(url),
    );
    const socket = connect({ port: served.port, host: "127.0.0.1", allowHalfOpen: true });
    socket.end(get("/1") + get("/2"));
    const answers = text(socket);
    await eventually("the first is begun", () => served.begun.length > 0);
    first.answer("one");
    expect(await answers).toMatch(/one[^]*\/2/);
    // Without a request under way, the server closes its half too.
    const idle = connect({ port: served.port, host: "127.0.0.1", allowHalfOpen: true });
    idle.end();
    expect(await text(idle)).toBe("");
  });
});

describe("bodies", () => {
  const refuseAll = () => new Response("no", { status: 401 });
  const head = (length: number) => `POST / HTTP/1.1\r\nhost: x\r\ncontent-length: ${length}\r\n\r\n`;

  test("F2: who is refused while sending can read that, and is then closed", async () => {
    await using served = await serveWith(refuseAll);
    // Within the bound the client sends all before it reads.
    const body = "b".repeat(2 * 1024 * 1024);
    const socket = dial(served, head(2 * body.length) + body);
    await eventually("it is refused", () => served.begun.length > 0);
    await new Promise((resolve) => socket.write(body, resolve));
    const answer = await text(socket);
    expect(answer).toMatch(/^HTTP\/1\.1 401 /);
    expect(answer).toMatch(/^connection: close\r$/im);
    socket.end();
    await eventually("both sides are closed", async () => (await connectionsOf(served.server)) === 0);
  });

  test("F2: what follows a refusal is not read for long, nor without a bound", async () => {
    await using served = await serveWith(refuseAll);
    const endless = dial(served, head(1e12));
    let sent = 0;
    const piece = Buffer.alloc(64 * 1024);
    const send = (): void => {
      if (endless.destroyed) return;
      endless.write(piece, () => {
        sent += piece.length;
        setImmediate(send);
      });
    };
    send();
    await eventually("the connection is cut off", () => endless.destroyed);
    expect(sent).toBeLessThan(32 * 1024 * 1024);
    // Sends nothing more, and never closes.
    const silent = dial(served, head(1e12));
    await once(silent.resume(), "end");
    expect(silent.destroyed).toBe(false);
    await eventually("the server closes", async () => (await connectionsOf(served.server)) === 0);
  });

  test("F2: a refusal before a body that is whole keeps the connection", async () => {
    await using served = await serveWith(async () => {
      await Promise.resolve();
      return refuseAll();
    });
    const answers = heard(served, post("/1", "body") + post("/2", "body", "connection: close\r\n"));
    expect(statuses(await answers)).toEqual(["401", "401"]);
  });

  test("F2: only who is let send its body hears 100 Continue", async () => {
    await using served = await serveWith(async (incoming) => {
      if (incoming.url === "/refused") return refuseAll();
      return bodyOf(incoming, 100).then(
        (body) => new Response(body),
        () => new Response("too large", { status: 413 }),
      );
    });
    const ask = (path: string, length: number) =>
      `POST ${path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-length: ${length}\r\n\r\n`;
    expect(statuses(await heard(served, ask("/refused", 4)))).toEqual(["401"]);
    expect(statuses(await heard(served, ask("/", 101)))).toEqual(["413"]);
    const honest = dial(served, ask("/", 4));
    const answers = text(honest);
    await eventually("it is begun", () => served.begun.length === 3);
    honest.write("body");
    expect(statuses(await answers)).toEqual(["100", "200"]);
  });
});

async function connectionsOf(server: Server): Promise<number> {
  return new Promise((resolve, reject) => {
    server.getConnections((error, count) => (error === null ? resolve(count) : reject(error)));
  });
}

test("D4: a server that drains still serves, and ends each connection after its next answer", async () => {
  await using served = await serveWith(() => new Response("yes"));
  const agent = new Agent({ keepAlive: true });
  const ask = async () => {
    const request = httpGet({ port: served.port, host: "127.0.0.1", agent });
    const [answer] = (await once(request, "response")) as [IncomingMessage];
    answer.resume();
    return [answer.statusCode, answer.headers.connection];
  };
  expect(await ask()).toEqual([200, "keep-alive"]);
  const drained = drain(served.server, 1_000);
  expect(await ask()).toEqual([200, "close"]);
  // On another connection.
  expect(await ask()).toEqual([200, "close"]);
  await drained;
  agent.destroy();
});
