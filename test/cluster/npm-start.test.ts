/** What `npm start` promises about the cluster that it runs. */
import { statSync } from "node:fs";
import { availableParallelism, loadavg } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { mintToken } from "../../router/callers/tokens.ts";
import { type Collector, startCollector } from "../support/collector.ts";
import {
  type ClusterDescription,
  isAlive,
  isReady,
  JWT_SECRET,
  NpmStart,
  PATIENCE_MS,
  until,
} from "./npm-start.ts";

const READY_MAX_MS = 15_000;
const timeout = 3 * PATIENCE_MS;

describe("a first start", () => {
  let collector: Collector;
  let start: NpmStart;
  let cluster: ClusterDescription;
  let readyMs: number;
  beforeAll(async () => {
    collector = await startCollector();
    const tracing = { OTEL_EXPORTER_OTLP_ENDPOINT: collector.url, OTEL_TRACES_SAMPLER_ARG: "1" };
    const startedAt = performance.now();
    start = new NpmStart({ env: { SHARDS: "2", ...tracing } });
    cluster = await start.ready();
    readyMs = performance.now() - startedAt;
  });
  afterAll(async () => {
    await start[Symbol.asyncDispose]();
    await collector[Symbol.asyncDispose]();
  });

  test("E1: is ready within 15 seconds and describes the cluster in a private file", () => {
    // Other programs slow a start down by as much as they want of the processors.
    const slowdown = Math.max(1, (loadavg()[0] ?? 0) / availableParallelism());
    expect(readyMs).toBeLessThan(READY_MAX_MS * slowdown);
    expect(cluster.shards.map(({ id }) => id)).toEqual(["shard-0", "shard-1"]);
    expect(cluster.catalogUrl).toMatch(/\/catalog$/);
    expect(cluster.amqpUrl).toBeNull();
    expect(start.stdout).toMatch(/^.* no rabbitmq-server on PATH: bookings are decided directly$/m);
    const readSidePid = cluster.readSide?.pid ?? 0;
    for (const pid of [
      cluster.router.pid,
      readSidePid,
      ...cluster.shards.flatMap((s) => [s.nodePid, s.postgresPid]),
    ]) {
      expect(isAlive(pid)).toBe(true);
    }
    expect(statSync(join(start.dataDir, "cluster.json")).mode & 0o777).toBe(0o600);
    expect(statSync(join(start.dataDir, "state.json")).mode & 0o777).toBe(0o600);
  });

  test("E1: prints tokens and commands that work as they are", { timeout }, async () => {
    await until("the guide is printed", () => start.stdout.includes("Ctrl-C stops everything"));

    const buyer = /BUYER='([^']+)'/.exec(start.stdout)?.[1];
    const bookings = /curl -i (\S+\/bookings)/.exec(start.stdout)?.[1] ?? "";
    const answer = await fetch(bookings, {
      method: "POST",
      headers: { authorization: `Bearer ${buyer}`, "content-type": "application/json" },
      body: '{"quantity":1}',
    });

    expect(bookings.startsWith(cluster.router.url)).toBe(true);
    expect(answer.status).toBe(201);
    expect(start.stdout).not.toContain("RabbitMQ at");
  });

  test("E1 T1: gives the roles the settings of tracing", { timeout }, async () => {
    // The demo event is the first request.
    const services = () => new Set(collector.spans.map((span) => span.service));
    await until("both roles have sent spans", () => services().size === 2);

    expect(services()).toEqual(new Set(["onsale-router", "onsale-shard-node"]));
  });

  test("E2: any process that is killed is started again, and all others live on", { timeout }, async () => {
    const { router, shards } = cluster;
    const readSideAdminUrl = cluster.readSide?.adminUrl ?? "";
    const adminUrls = [router.adminUrl, readSideAdminUrl, ...shards.map(({ nodeAdminUrl }) => nodeAdminUrl)];
    await until("the read side has filled its tables", async () => isReady(readSideAdminUrl));
    const names = Object.keys(start.pids());
    expect(names).toEqual(
      expect.arrayContaining([
        "router",
        "shard-0 node",
        "shard-0 postgres",
        "shard-1 node",
        "read-side",
        "read-side postgres",
      ]),
    );

    for (const name of names) {
      const before = start.pids();
      const pid = before[name] ?? 0;
      process.kill(pid, "SIGKILL");

      await until(`${name} runs again`, () => start.pids()[name] !== pid && isAlive(start.pids()[name] ?? 0));
      await until("all are ready", async () => (await Promise.all(adminUrls.map(isReady))).every(Boolean));
      expect(start.pids()).toEqual({ ...before, [name]: start.pids()[name] });
      expect(Object.values(start.pids()).every(isAlive)).toBe(true);
    }

    const pids = start.pids();
    const after = start.cluster();
    expect(after.router).toEqual({ ...router, pid: pids["router"] });
    expect(after.readSide).toEqual({ ...cluster.readSide, pid: pids["read-side"] });
    expect(after.shards.map((s) => [s.nodePid, s.postgresPid])).toEqual(
      shards.map(({ id }) => [pids[`${id} node`], pids[`${id} postgres`]]),
    );
    await createEvent(after.router.url); // and it still does its work
  });
});

test(
  "E3: SIGTERM stops everything, several of them too, and the next start has the data",
  { timeout },
  async () => {
    await using start = new NpmStart({ env: { SHARDS: "1" } });
    const { router } = await start.ready();
    const id = await createEvent(router.url);
    const pids = [start.pid, ...Object.values(start.pids())];

    for (let times = 0; times < 3; times++) start.signal("SIGTERM");

    expect(await start.ended()).toBe(0);
    expect(pids.filter(isAlive)).toEqual([]);

    await using again = new NpmStart({ dataDir: start.dataDir, env: { SHARDS: "2" } }); // and may have more shards
    const cluster = await again.ready();
    expect(cluster.shards).toHaveLength(2);
    await until("the event is there", async () => (await fetch(`${cluster.router.url}/v1/events/${id}`)).ok);
  },
);

test(
  "E3: Ctrl-C, which a terminal sends to npm and everything below, stops it all in order",
  { timeout },
  async () => {
    await using start = new NpmStart({ npm: true, env: { SHARDS: "1" } });
    await start.ready();
    const pids = Object.values(start.pids());

    start.signal("SIGINT", true);

    expect(await start.ended()).toBe(0);
    expect(pids.filter(isAlive)).toEqual([]);
    expect(start.stdout).not.toMatch(/starting it again|was killed/);
  },
);

test("E3: it can be stopped at any moment of its start", { timeout }, async () => {
  const moments = [/Redis|redis/, /PostgreSQL runs/, /nodes run/];
  for (const moment of moments) {
    await using start = new NpmStart({ env: { SHARDS: "1" } });
    await until("it has come to that moment", () => isAlive(start.pid) && moment.test(start.stdout));
    start.signal("SIGTERM");

    expect(await start.ended()).toBe(0);
    expect(Object.values(start.pids()).filter(isAlive)).toEqual([]);
  }
});

/** Creates an event as an organizer; resolves to its id. */
async function createEvent(routerUrl: string): Promise<string> {
  const token = await mintToken({ secret: JWT_SECRET, sub: "organizer", role: "organizer", ttlSeconds: 60 });
  let id = "";
  // A shard that was just killed answers 503 until its node has connected again.
  await until("an event can be created", async () => {
    const answer = await fetch(`${routerUrl}/v1/events`, {
      method: "POST",
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
      body: JSON.stringify({ name: "n", venue: "v", startsAt: "2999-01-01T00:00:00Z", totalTickets: 10 }),
    });
    id = String(((await answer.json()) as { id?: unknown }).id);
    return answer.status === 201;
  });
  return id;
}
