/** What HAProxy does when one of two routers hangs, is cut off or leaves, and when none is ready. Stand-ins are the routers. */
import { setTimeout as sleep } from "node:timers/promises";
import getPort from "get-port";
import { afterAll, beforeAll, expect, test } from "vitest";
import { eventually } from "../support/eventually.ts";
import { outputOf, ROOT, run } from "./compose-stack.ts";
import { type Answer, described, failed, startLoad } from "./load.ts";

const PER_SECOND = 40;
/** A router needs so long to know that it is cut off, and longer if packets vanish (F11). */
const UNREADY_AFTER_MS = 3_000;
/** "timeout server" of haproxy.cfg, and some time for a machine that is busy. */
const ANSWERED_MAX_MS = 7_000 + 500;
/** Three checks, and some time for a machine that is busy. */
const SEEN_MAX_MS = 5_000;

const name = `onsale-test-routers-${process.pid}`;
const routers = [`${name}-0`, `${name}-1`] as const;
let port: number;
let adminPort: number;

/** A router whose state is a file: it answers who it is, unless it is cut off; then it refuses at once. */
const STAND_IN = `
  const { createServer } = require("node:http");
  const { existsSync, statSync } = require("node:fs");
  const is = (state) => existsSync("/tmp/" + state);
  const isCutOff = (ms) => is("cut-off") && Date.now() - statSync("/tmp/cut-off").mtimeMs >= ms;
  createServer(({ url }, answer) => {
    if (url.startsWith("/healthz")) answer.statusCode = 200;
    else if (is("draining")) answer.statusCode = url.endsWith("?draining=404") ? 404 : 503;
    else if (is("unready") || isCutOff(${UNREADY_AFTER_MS})) answer.statusCode = 503;
    answer.end();
  }).listen(8081);
  createServer((request, answer) => {
    answer.statusCode = isCutOff(0) ? 503 : 200;
    setTimeout(() => answer.end(process.env.NAME), request.url === "/slow" ? 3_000 : 5);
  }).listen(8080);`;

beforeAll(async () => {
  port = await getPort();
  adminPort = await getPort();
  await outputOf("docker", ["network", "create", name]);
  for (const router of routers) {
    const options = ["--init", "--name", router, "--env", `NAME=${router}`, "--network", name];
    const command = ["--network-alias", "routers", "node:26-trixie-slim", "node", "-e", STAND_IN];
    await outputOf("docker", ["run", "--detach", ...options, ...command]);
  }
  const published = ["--publish", `127.0.0.1:${port}:8080`, "--publish", `127.0.0.1:${adminPort}:8405`];
  const limits = ["CLIENT_CONNECTIONS_MAX=5000", "CLIENT_REQUESTS_MAX=1000000", "TRACE_CLIENTS=127.0.0.1"];
  const config = `${ROOT}/deploy/haproxy/haproxy.cfg:/usr/local/etc/haproxy/haproxy.cfg:ro`;
  const options = ["--init", "--name", name, "--network", name, ...published, "--volume", config];
  const env = limits.flatMap((limit) => ["--env", limit]);
  await outputOf("docker", ["run", "--detach", ...options, ...env, "haproxy:3.0"]);
  await bothServe();
});

afterAll(async () => {
  await run("docker", ["rm", "--force", "--volumes", name, ...routers]);
  await run("docker", ["network", "rm", name]);
});

test("D12: requests at a router that hangs end in time, and the other router gets the rest", async () => {
  const load = startLoad(async () => asked("/"), PER_SECOND);
  await sleep(1_000);
  const began = performance.now();
  await outputOf("docker", ["pause", routers[0]]);
  await sleep(12_000);
  await outputOf("docker", ["unpause", routers[0]]);
  const answers = await load.stop();
  console.log(`one router paused for 12 s: ${described(answers)}`);
  expect(Math.max(...answers.map(({ ms }) => ms))).toBeLessThan(ANSWERED_MAX_MS);
  expect(failuresAfter(began + SEEN_MAX_MS, answers)).toBe(0);
  await bothServe();
});

test("D12: a router that reaches no node, and so refuses at once, does not draw the requests to itself", async () => {
  const load = startLoad(async () => asked("/", { method: "POST" }), PER_SECOND);
  const began = performance.now();
  await becomes(routers[0], "cut-off");
  await sleep(20_000);
  const answers = await load.stop();
  console.log(`one router cut off for 20 s: ${described(answers)}`);
  expect(failuresAfter(began + UNREADY_AFTER_MS + SEEN_MAX_MS, answers)).toBe(0);
  await isWell(routers[0], "cut-off");
});

test("D4 D12: a router that leaves finishes what it has, gets no more, and is not called broken", async () => {
  const slow = Array.from({ length: 10 }, async () => (await ask("/slow")).text());
  await becomes(routers[0], "draining");
  await eventually("HAProxy knows", async () => (await serversThatAre("NOLB")) === 1, SEEN_MAX_MS);
  for (let index = 0; index < 20; index += 1) expect(await (await ask("/")).text()).toBe(routers[1]);
  expect(new Set(await Promise.all(slow))).toEqual(new Set(routers));
  await isWell(routers[0], "draining");
});

test("D12: while no router is ready, those that live are asked all the same", async () => {
  for (const router of routers) await becomes(router, "unready");
  await eventually("HAProxy knows", async () => (await ask("/readyz", {}, adminPort)).status === 503);
  const load = startLoad(async () => asked("/"), PER_SECOND);
  await sleep(2_000);
  const killedAt = performance.now();
  await outputOf("docker", ["kill", routers[0]]);
  await sleep(SEEN_MAX_MS + 2_000);
  const answers = await load.stop();
  console.log(`no router ready, and one killed: ${described(answers)}`);
  // What the killed one was just answering may be lost.
  expect(answers.filter(({ sentAt, ms }) => sentAt + ms < killedAt).filter(failed).length).toBe(0);
  expect(failuresAfter(killedAt + SEEN_MAX_MS, answers)).toBe(0);
});

const failuresAfter = (moment: number, answers: readonly Answer[]): number =>
  answers.filter(({ sentAt }) => sentAt > moment).filter(failed).length;

async function ask(path: string, init: RequestInit = {}, at = port): Promise<Response> {
  return fetch(`http://127.0.0.1:${at}${path}`, init);
}

/** With the whole answer. */
async function asked(path: string, init?: RequestInit): Promise<{ status: number; text: string }> {
  const answer = await ask(path, init);
  return { status: answer.status, text: await answer.text() };
}

async function becomes(router: string, state: string): Promise<void> {
  await outputOf("docker", ["exec", router, "touch", `/tmp/${state}`]);
}

async function isWell(router: string, state: string): Promise<void> {
  await outputOf("docker", ["exec", router, "rm", `/tmp/${state}`]);
  await bothServe();
}

async function bothServe(): Promise<void> {
  const seen = new Set<string>();
  await eventually(
    "both routers serve",
    async () => {
      const answer = await ask("/").catch(() => undefined);
      if (answer?.status === 200) seen.add(await answer.text());
      return seen.size === 2;
    },
    60_000,
  );
}

/** How many routers HAProxy's statistics call so. */
async function serversThatAre(status: string): Promise<number> {
  const [head = "", ...rows] = (await (await ask("/stats;csv", {}, adminPort)).text()).split("\n");
  const column = head.split(",").indexOf("status");
  return rows.filter((row) => row.startsWith("routers,router-") && row.split(",")[column] === status).length;
}
