/** What HAProxy does, in front of a stand-in for a router that shows what it is sent. The tests run in order. */
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import getPort from "get-port";
import { afterAll, beforeAll, expect, test } from "vitest";
import { PROBLEMS } from "../../router/http/problems.ts";
import { tally } from "../support/running-cluster.ts";
import { eventually } from "../support/eventually.ts";
import { outputOf, ROOT, run } from "./compose-stack.ts";

const CONNECTIONS_MAX = 20;
const REQUESTS_MAX = 300;
/** "timeout http-request" of haproxy.cfg. */
const REQUEST_MAX_MS = 10_000;

const name = `onsale-test-haproxy-${process.pid}`;
const standIn = `${name}-router`;
let port: number;
let adminPort: number;

/** Shows each request, and counts those that it answers by hanging up. */
const STAND_IN = `
  const http = require("node:http");
  let connections = 0;
  const dropped = {};
  http.createServer((_, answer) => answer.end("ready")).listen(8081);
  http.createServer((request, answer) => {
    const { method, url, headers } = request;
    request.resume().on("end", () => {
      if (url.startsWith("/drop")) {
        const first = dropped[url] === undefined;
        dropped[url] = (dropped[url] ?? 0) + 1;
        if (first || !url.startsWith("/drop-once")) return request.socket.destroy();
      }
      answer.end(JSON.stringify({ method, url, headers, connections, dropped }));
    });
  }).on("connection", () => (connections += 1)).listen(8080);`;

interface Shown {
  headers: Record<string, string>;
  connections: number;
  dropped: Record<string, number>;
}

beforeAll(async () => {
  port = await getPort();
  adminPort = await getPort();
  await outputOf("docker", ["network", "create", name]);
  const standInOptions = ["--init", "--name", standIn, "--network", name, "--network-alias", "routers"];
  await outputOf(
    "docker",
    ["run", "--detach"].concat(standInOptions, ["node:26-trixie-slim", "node", "-e", STAND_IN]),
  );
  const published = ["--publish", `127.0.0.1:${port}:8080`, "--publish", `127.0.0.1:${adminPort}:8405`];
  const address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
  const trusted = await outputOf("docker", ["inspect", "--format", address, standIn]);
  const limits = [
    `CLIENT_CONNECTIONS_MAX=${CONNECTIONS_MAX}`,
    `CLIENT_REQUESTS_MAX=${REQUESTS_MAX}`,
    `TRACE_CLIENTS=192.0.2.1 ${trusted}/32`,
  ];
  const config = `${ROOT}/deploy/haproxy/haproxy.cfg:/usr/local/etc/haproxy/haproxy.cfg:ro`;
  await outputOf(
    "docker",
    ["run", "--detach", "--init", "--name", name, "--network", name].concat(
      published,
      limits.flatMap((limit) => ["--env", limit]),
      ["--volume", config, "haproxy:3.0"],
    ),
  );
  await eventually(
    "HAProxy has found the router",
    async () => (await ask("/").catch(() => undefined))?.status === 200,
    60_000,
  );
});

afterAll(async () => {
  await run("docker", ["rm", "--force", "--volumes", name, standIn]);
  await run("docker", ["network", "rm", name]);
});

test("D5: a client cannot say which address it has", async () => {
  const forged = { "x-forwarded-for": "1.2.3.4", "x-real-ip": "1.2.3.4", forwarded: "for=1.2.3.4" };
  const { headers } = await shown("/", { headers: forged });
  expect(headers["x-forwarded-for"]).toMatch(/^(\d+\.){3}\d+$/);
  expect(JSON.stringify(headers)).not.toContain("1.2.3.4");
});

test("D5: a trace is begun by the trusted alone", async () => {
  const sent = {
    traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    tracestate: "vendor=1",
    baggage: "user=ada",
  };
  const outside = await shown("/", { headers: sent });
  expect(outside.headers["x-forwarded-for"]).toBeDefined();
  for (const header of Object.keys(sent)) expect(outside.headers).not.toHaveProperty(header);

  const ask = `fetch("http://${name}:8080/", { headers: ${JSON.stringify(sent)} })
    .then(async (answer) => console.log(await answer.text()))`;
  const inside = JSON.parse(await outputOf("docker", ["exec", standIn, "node", "-e", ask])) as Shown;
  const { traceparent, tracestate } = sent;
  expect(inside.headers).toMatchObject({ traceparent, tracestate });
  expect(inside.headers).not.toHaveProperty("baggage");
});

test("D5: connections to a router are kept and shared", async () => {
  const { connections } = await shown("/");
  for (let index = 0; index < 20; index += 1) await shown("/");
  expect((await shown("/")).connections - connections).toBeLessThanOrEqual(2);
});

test("D5: a read that got no answer is sent again, a write that a router may have seen is not", async () => {
  expect((await ask("/drop-once/read")).status).toBe(200);
  // On a connection that has served others HAProxy hangs up, too: its client knows best whether to try again.
  const outcomeOf = async (path: string, init: RequestInit) => {
    const answer = await ask(path, init).catch(() => undefined);
    if (answer !== undefined) await expectProblem(answer, "outcome_unknown");
  };
  await outcomeOf("/drop-once/write", { method: "POST", body: "{}" });
  await outcomeOf("/drop/delete", { method: "DELETE" });
  expect((await shown("/")).dropped).toEqual({
    "/drop-once/read": 2,
    "/drop-once/write": 1,
    "/drop/delete": 1,
  });
});

test("D5: what no router answers, and a body that stops, get problem documents", async () => {
  await expectProblem(await sent("GET /drop/read HTTP/1.1\r\nHost: x\r\n\r\n"), "overloaded");
  const write = "POST /drop/write HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
  await expectProblem(await sent(write), "outcome_unknown");

  const began = performance.now();
  const stopped = await sent("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{");
  expect(performance.now() - began).toBeGreaterThan(REQUEST_MAX_MS - 1_000);
  expect(performance.now() - began).toBeLessThan(REQUEST_MAX_MS + 5_000);
  await expectProblem(stopped, "invalid_request");
});

test("D5: a client that sends its head too slowly loses its connection", async () => {
  const socket = connect(port, "127.0.0.1");
  await once(socket, "connect");
  socket.write("GET / HTTP/1.1\r\nHost: x\r\n");
  const began = performance.now();
  const trickle = setInterval(() => socket.write("X-Slow: 1\r\n"), 500);
  socket.on("error", () => undefined).resume();
  await once(socket, "close");
  clearInterval(trickle);
  expect(performance.now() - began).toBeGreaterThan(REQUEST_MAX_MS - 1_000);
  expect(performance.now() - began).toBeLessThan(REQUEST_MAX_MS + 5_000);
});

test("D5: an address has so many connections at once, and one more is hung up on", async () => {
  const sockets: Socket[] = [];
  let open = 0;
  for (let index = 0; index < CONNECTIONS_MAX + 20; index += 1) {
    const socket = connect(port, "127.0.0.1");
    socket
      .on("error", () => undefined)
      .on("close", () => (open -= 1))
      .resume();
    sockets.push(socket);
    await once(socket, "connect");
    open += 1;
  }
  // Those of fetch that are idle count as well.
  await eventually("the surplus is hung up on", () => open <= CONNECTIONS_MAX);
  expect(open).toBeGreaterThan(CONNECTIONS_MAX - 15);
  for (const socket of sockets) socket.destroy();
  await eventually(
    "there is room again",
    async () => (await ask("/").catch(() => undefined))?.status === 200,
  );
});

test("D5: without a router the answer is a problem document that says when to come back", async () => {
  await outputOf("docker", ["kill", standIn]);
  await eventually("HAProxy has seen it", async () => (await ask("/readyz", {}, adminPort)).status === 503);
  // It asks those that live, until it has seen that none does.
  const noRouter = async () => (await ask("/").catch(() => undefined))?.status === 503;
  await eventually("it asks nobody any more", noRouter);
  const answer = await ask("/");
  expect(answer.status).toBe(503);
  expect(answer.headers.get("retry-after")).toBe("1");
  await expectProblem(answer, "overloaded");
  await outputOf("docker", ["start", standIn]);
  await eventually(
    "HAProxy has found it again",
    async () => (await ask("/readyz", {}, adminPort)).status === 200,
  );
});

test("D5: an address has so many requests in ten seconds, and is told when it sends more", async () => {
  const answers: number[] = [];
  let refusal: Response | undefined;
  while (answers.length < REQUESTS_MAX + 50) {
    const answer = await ask("/");
    answers.push(answer.status);
    if (answer.status === 429 && refusal === undefined) refusal = answer;
    else await answer.arrayBuffer();
  }
  expect(tally(answers)["429"]).toBeGreaterThan(20);
  expect(refusal?.headers.get("retry-after")).toBe("1");
  await expectProblem(refusal, "rate_limited");

  // A second is what it was told to wait; who does not wait is refused for ever.
  let status = 429;
  for (let seconds = 0; status === 429 && seconds < 30; seconds += 1) {
    await sleep(1_000);
    ({ status } = await ask("/"));
  }
  expect(status).toBe(200);
});

async function ask(path: string, init: RequestInit = {}, at = port): Promise<Response> {
  return fetch(`http://127.0.0.1:${at}${path}`, init);
}

/** The answer to these bytes on a connection of their own: on one that has served others HAProxy may hang up in place of 502. */
async function sent(bytes: string): Promise<Response> {
  const socket = connect(port, "127.0.0.1");
  await once(socket, "connect");
  socket.write(bytes);
  const [answer] = (await once(socket, "data")) as [Buffer];
  socket.destroy();
  const [head = "", body = ""] = answer.toString().split("\r\n\r\n");
  const [status = "", ...lines] = head.split("\r\n");
  const headers = lines.map((line) => line.split(": ") as [string, string]);
  return new Response(body, { status: Number(status.split(" ")[1]), headers });
}

async function shown(path: string, init: RequestInit = {}): Promise<Shown> {
  return (await (await ask(path, init)).json()) as Shown;
}

async function expectProblem(
  answer: Response | undefined,
  code: "rate_limited" | "overloaded" | "outcome_unknown" | "invalid_request",
): Promise<void> {
  const { status, title } = PROBLEMS[code];
  expect(answer?.status).toBe(status);
  expect(answer?.headers.get("content-type")).toMatch(/^application\/problem\+json/);
  const problem = (await answer?.json()) as { requestId: string };
  expect(answer?.headers.get("x-request-id")).toBe(problem.requestId);
  expect(problem).toEqual({
    type: `urn:onsale:problem:${code}`,
    title,
    status,
    code,
    detail: expect.any(String),
    requestId: expect.stringMatching(/^[\w-]+$/),
  });
}
