import { describe, expect, test } from "vitest";
import { audit } from "../../audit/audit.ts";
import { chooseFreePort } from "../../deploy/embedded/ports.ts";
import { startPostgresServer } from "../../deploy/embedded/postgres-server.ts";
import { migrate } from "../../migrations/runner.ts";
import { SLOT_COUNT, slotOf } from "../../shared/domain/slots.ts";
import type { Event } from "../../shared/domain/events.ts";
import {
  type Client,
  crowd,
  PATIENT,
  startTestCluster,
  tally,
  type TestCluster,
} from "../support/running-cluster.ts";
import { connectTo, lockEvent } from "../support/databases.ts";
import { eventually } from "../support/eventually.ts";
import { freeze } from "../support/freeze.ts";
import { startProxy } from "../support/proxy.ts";
import { findRedisServer, startRedisServer } from "../support/redis.ts";

/** An event that belongs to this shard of two. */
async function eventOn(client: Client, shard: 0 | 1, fields: Record<string, unknown> = {}): Promise<Event> {
  for (;;) {
    const event = await client.createEvent(fields);
    if (Math.floor((slotOf(event.id) * 2) / SLOT_COUNT) === shard) return event;
  }
}

async function metric(adminUrl: string | undefined, line: RegExp): Promise<number> {
  const found = line.exec(await (await fetch(`${adminUrl}/metrics`)).text());
  return Number(found?.[1]);
}

function shardOf(cluster: TestCluster, event: Event) {
  const shard = cluster.shards[Math.floor((slotOf(event.id) * cluster.shards.length) / SLOT_COUNT)];
  if (shard === undefined) throw new Error("every event has a shard");
  return shard;
}

describe("a shard's database", () => {
  test("F3: killed, only its events answer 503, at once; back again, they sell again", async () => {
    await using server = await startPostgresServer({ databases: ["shard_template"], durable: true });
    await migrate(server.url("shard_template"), "shard");
    await using cluster = await startTestCluster({
      serverOf: (shard) => (shard === 1 ? server.url("") : undefined),
    });
    const client = cluster.client();
    const [alive, dead] = [await eventOn(client, 0), await eventOn(client, 1)];
    expect((await client.book(dead.id, "before")).status).toBe(201);

    process.kill(server.pid, "SIGKILL");
    await eventually(
      "the dead shard refuses",
      async () => (await client.book(dead.id, "during")).status === 503,
    );
    const started = performance.now();
    const refused = await client.book(dead.id, "during");
    expect(performance.now() - started).toBeLessThan(1_000);
    expect([refused.status, refused.body.code, refused.headers.get("retry-after")]).toEqual([
      503,
      "shard_unavailable",
      "1",
    ]);
    expect((await client.book(alive.id, "during")).status).toBe(201);
    expect((await client.send("GET", "/v1/events")).body.code).toBe("shard_unavailable");
    await eventually(
      "the node says that it is not ready",
      async () => (await fetch(`${cluster.nodes[1]?.adminUrl}/readyz`)).status === 503,
    );
    expect((await fetch(`${cluster.routers[0]?.adminUrl}/readyz`)).status).toBe(200);

    // The killed server's children let go of its port and memory a moment after it.
    await using again = await eventually("the database is back", async () =>
      startPostgresServer({ dataDir: server.dataDir, port: server.port, durable: true }).catch(
        () => undefined,
      ),
    );
    await eventually(
      "its events sell again",
      async () => (await client.book(dead.id, "after")).status === 201,
    );
    // "during" may have been told outcome_unknown as the server died; the audit says whether the shard is whole.
    const { availableTickets } = await client.readEvent(dead.id);
    expect(await audit(cluster.catalogUrl)).toMatchObject({
      ticketsSold: 101 - availableTickets,
      violations: [],
    });
    expect(again.port).toBe(server.port);
    await cluster[Symbol.asyncDispose]();
  });

  test("F3: frozen, its requests have an answer by their deadline, and soon at once", async () => {
    await using server = await startPostgresServer({ databases: ["shard_template"] });
    await migrate(server.url("shard_template"), "shard");
    await using cluster = await startTestCluster({
      serverOf: (shard) => (shard === 1 ? server.url("") : undefined),
      env: { COMMAND_DEADLINE_MS: "1000", READ_DEADLINE_MS: "1000", STATEMENT_TIMEOUT_MS: "500" },
    });
    const client = cluster.client();
    const [alive, frozen] = [await eventOn(client, 0), await eventOn(client, 1)];
    await using frost = freeze(server.pid);

    const started = performance.now();
    const first = await Promise.all(
      Array.from({ length: 20 }, async (_, index) => client.book(frozen.id, `u-${index}`)),
    );
    expect(performance.now() - started).toBeLessThan(4_000);
    expect(Object.keys(tally(first.map((answer) => answer.status)))).toEqual(["503"]);
    await eventually("the breaker opens", async () => {
      await client.book(frozen.id, "later");
      return (
        (await metric(cluster.routers[0]?.adminUrl, /onsale_shard_breaker_open\{shard="shard-1"\} (\d)/)) ===
        1
      );
    });
    const asked = performance.now();
    expect((await client.book(frozen.id, "later")).body.code).toBe("shard_unavailable");
    expect(performance.now() - asked).toBeLessThan(1_000); // not even until its deadline
    expect((await client.book(alive.id, "u")).status).toBe(201);

    await frost[Symbol.asyncDispose]();
    await eventually(
      "its events sell again",
      async () => (await client.book(frozen.id, "after")).status === 201,
    );
    expect((await audit(cluster.catalogUrl)).violations).toEqual([]);
  });

  test("L1 L3: a buyer who sends without waiting is refused, and nobody else of the shard waits for them", async () => {
    await using cluster = await startTestCluster({ shards: 1, env: { RATE_LIMIT_PER_USER: "0" } });
    const client = cluster.client();
    const [hot, quiet] = [await client.createEvent(), await client.createEvent()];
    let greedy = true;
    const answers: { status: number; code: string | undefined; ratelimit: string | null }[] = [];
    const flood = Array.from({ length: 40 }, async () => {
      while (greedy) {
        const { status, body, headers } = await client.book(hot.id, "greedy");
        answers.push({ status, code: body.code, ratelimit: headers.get("ratelimit") });
      }
    });

    await eventually("the flood is on", () => answers.length > 200);
    const times: number[] = [];
    for (let user = 0; user < 50; user += 1) {
      const started = performance.now();
      const { status } = await client.book(user % 2 === 0 ? quiet.id : hot.id, `user-${user}`);
      times.push(performance.now() - started);
      expect(status).toBe(201);
    }
    greedy = false;
    await Promise.all(flood);

    const codes = tally(answers.map(({ code }) => code ?? "booked"));
    expect(Object.keys(codes).toSorted()).toEqual(["booked", "rate_limited", "user_limit_exceeded"]);
    expect(codes["booked"]).toBe(2);
    expect(answers.find(({ code }) => code === "rate_limited")).toEqual({
      status: 429,
      code: "rate_limited",
      ratelimit: '"user-under-way";r=0;t=1',
    });
    // One batch a command of the greedy buyer would take seconds.
    expect(times.toSorted((a, b) => a - b)[25]).toBeLessThan(1_000);
  });

  test("L4: an event that is locked by somebody else is overloaded at once, and every other event of its shard sells on", async () => {
    await using cluster = await startTestCluster({ shards: 1 });
    const client = cluster.client();
    const [stuck, ...free] = await Promise.all(Array.from({ length: 5 }, () => client.createEvent()));
    if (stuck === undefined) throw new Error("five events");
    const held = await client.hold(stuck.id, "holder");
    using lock = await lockEvent(shardOf(cluster, stuck).databaseUrl, stuck.id);
    const rename = async (id: string) =>
      client.send<{ code?: string }>("PATCH", `/v1/events/${id}`, {
        as: "the-organizer",
        role: "organizer",
        body: { name: `Renamed at ${performance.now()}` },
      });
    const codes = async (round: number) => {
      const [confirmed, refused, ...others] = await Promise.all([
        client.confirm(held.body.id, "holder"),
        ...[stuck, ...free].map(({ id }) => client.book(id, `user-${round}`)),
        rename(free[0]?.id ?? ""),
        client.send("GET", `/v1/bookings/${held.body.id}`, { as: "holder" }),
      ]);
      return { stuck: [confirmed.body.code, refused?.body.code], others: others.map(({ status }) => status) };
    };
    // An organizer who does not wait for answers.
    const renames: ReturnType<typeof rename>[] = [];

    for (let round = 0; round < 20; round += 1) {
      const started = performance.now();
      renames.push(rename(stuck.id), rename(stuck.id), rename(stuck.id));
      const others = [201, 201, 201, 201, 200, 200];
      expect(await codes(round)).toEqual({ stuck: ["overloaded", "overloaded"], others });
      expect(performance.now() - started).toBeLessThan(1_000);
    }
    for (const { body } of await Promise.all(renames)) expect(body.code).toBe("overloaded");
    await lock.run("rollback");

    await eventually("the event can be changed", async () => (await rename(stuck.id)).status === 200);
    await eventually(
      "the event sells again",
      async () => (await client.book(stuck.id, "late")).status === 201,
    );
    expect((await client.confirm(held.body.id, "holder")).status).toBe(200);
    expect((await client.readEvent(stuck.id)).availableTickets).toBe(98);
  });

  test("F2: beyond its queue a router refuses in milliseconds, and what it accepted is still answered", async () => {
    await using cluster = await startTestCluster({
      shards: 1,
      env: { SHARD_QUEUE_MAX: "20", RPC_IN_FLIGHT_MAX: "1", RPC_BATCH_MAX: "10", LOCK_TIMEOUT_MS: "4000" },
    });
    const client = cluster.client();
    const event = await client.createEvent({ totalTickets: 500 });
    using lock = connectTo(cluster.shards[0]?.databaseUrl ?? "");
    // No batch is decided while somebody moves slots.
    await lock.run("select pg_advisory_lock(slots_lock_key())");
    const answered: { status: number; code: string | undefined; ms: number }[] = [];
    const requests = Array.from({ length: 500 }, async (_, index) => {
      const started = performance.now();
      const answer = await client.book(event.id, `user-${index}`);
      answered.push({ status: answer.status, code: answer.body.code, ms: performance.now() - started });
    });

    await eventually("the surplus is refused while nothing moves", () => answered.length >= 100);
    for (const { code, ms } of answered) expect([code, ms < 4_000]).toEqual(["overloaded", true]);
    await lock.run("select pg_advisory_unlock(slots_lock_key())");
    await Promise.all(requests);

    const codes = tally(answered.map(({ code }) => code ?? "booked"));
    expect(codes).toEqual({ booked: 500 - (codes["overloaded"] ?? 0), overloaded: codes["overloaded"] });
    const shed = await metric(
      cluster.routers[0]?.adminUrl,
      /onsale_shed_total\{reason="shard_queue_full"\} (\d+)/,
    );
    expect(shed).toBe(codes["overloaded"]);
    expect((await client.readEvent(event.id)).availableTickets).toBe(shed);
  });
});

describe("a shard node", () => {
  test("F1: an answer that is lost after the commit is fetched again: one booking, one answer", async () => {
    await using cluster = await startTestCluster({ shards: 1, routers: 0 });
    const node = cluster.nodes[0];
    await using proxy = await startProxy(Number(new URL(node?.url ?? "").port));
    const shard = cluster.shards[0];
    await node?.close();
    cluster.nodes.length = 0;
    if (shard === undefined) throw new Error("one shard");
    const port = String(new URL(node?.url ?? "").port);
    await cluster.addNode(shard, { PORT: port, ADVERTISE_URL: `http://127.0.0.1:${proxy.port}` });
    await cluster.addRouter({ NODE_URLS: `http://127.0.0.1:${proxy.port}` });
    const client = cluster.client();
    const event = await client.createEvent();

    let cuts = 1;
    proxy.onAnswer = (data) => (data.includes('"outcome":"booked"') && cuts-- > 0 ? "cut" : "pass");
    const booked = await client.book(event.id, "a", 2);
    expect([booked.status, booked.headers.get("idempotency-replayed")]).toEqual([201, null]);
    expect((await client.readEvent(event.id)).availableTickets).toBe(98);

    cuts = 1_000;
    proxy.onAnswer = (data) =>
      /"outcome":"(booked|replayed)"/.test(data.toString()) && cuts-- > 0 ? "cut" : "pass";
    const key = { "idempotency-key": "again" };
    const unknown = await client.book(event.id, "b", 1, key);
    expect([unknown.status, unknown.body.code, unknown.headers.get("retry-after")]).toEqual([
      503,
      "outcome_unknown",
      "1",
    ]);
    expect(unknown.headers.get("idempotency-key")).toBe("again");
    proxy.onAnswer = () => "pass";
    const found = await eventually("the node may be called again", async () => {
      const answer = await client.book(event.id, "b", 1, key);
      return answer.status === 201 ? answer : undefined;
    });
    expect(found.headers.get("idempotency-replayed")).toBe("true");
    expect(await audit(cluster.catalogUrl)).toMatchObject({ bookings: 2, ticketsSold: 3, violations: [] });
  });

  test("F3: gone, its events answer 503 at once and the breaker opens; another node of the shard takes over", async () => {
    await using cluster = await startTestCluster({ shards: 1 });
    const client = cluster.client();
    const event = await client.createEvent();
    const [only] = cluster.nodes.splice(0, 1);
    await only?.close();

    const refused = await client.book(event.id, "a");
    expect([refused.status, refused.body.code]).toEqual([503, "shard_unavailable"]);
    await eventually("the breaker opens", async () => {
      await client.book(event.id, "a");
      return (
        (await metric(cluster.routers[0]?.adminUrl, /onsale_shard_breaker_open\{shard="shard-0"\} (\d)/)) ===
        1
      );
    });
    const shard = cluster.shards[0];
    if (shard === undefined) throw new Error("one shard");
    await cluster.addNode(shard, { PORT: String(new URL(only?.url ?? "").port) });
    await eventually("its events sell again", async () => (await client.book(event.id, "a")).status === 201);

    await cluster.addNode(shard);
    await cluster.routers[0]?.close();
    cluster.routers.length = 0;
    await cluster.addRouter();
    const [preferred] = cluster.nodes.splice(0, 1);
    await preferred?.close();
    expect((await cluster.client().book(event.id, "b")).status).toBe(201);
  });

  test("F5: told to stop under load, it answers what it accepted, and no 201 is missing in the database", async () => {
    await using cluster = await startTestCluster({ shards: 1 });
    const client = cluster.client();
    const event = await client.createEvent({ totalTickets: 10_000 });
    let sold = 0;
    const requests = Array.from({ length: 400 }, async (_, index) => {
      const answer = await client.book(event.id, `user-${index}`);
      sold += Number(answer.status === 201);
      return answer;
    });
    await eventually("some are booked", () => sold > 20);
    const [node] = cluster.nodes.splice(0, 1);
    await node?.close();
    const answers = await Promise.all(requests);

    const statuses = tally(answers.map((answer) => answer.status));
    expect(Object.keys(statuses).filter((status) => !["201", "503"].includes(status))).toEqual([]);
    const report = await audit(cluster.catalogUrl);
    expect(report).toMatchObject({ bookings: statuses["201"], violations: [] });
  });

  test("F5: a router that is told to stop under load answers what it accepted, in the words of the catalogue", async () => {
    await using cluster = await startTestCluster({ shards: 1, env: PATIENT });
    const client = cluster.client();
    const event = await client.createEvent({ totalTickets: 10_000 });
    using lock = connectTo(cluster.shards[0]?.databaseUrl ?? "");
    await lock.run("select pg_advisory_lock(slots_lock_key())");
    const requests = Array.from({ length: 50 }, async (_, index) => client.book(event.id, `user-${index}`));
    await eventually(
      "they wait for the lock",
      async () => (await metric(cluster.nodes[0]?.adminUrl, /^onsale_db_lock_waiters (\d+)/m)) > 0,
    );
    const [router] = cluster.routers.splice(0, 1);
    const closing = router?.close();
    await eventually(
      "it is not ready any more",
      async () => (await fetch(`${router?.adminUrl}/readyz`)).status === 503,
    );
    await lock.run("select pg_advisory_unlock(slots_lock_key())");
    await closing;
    const answers = await Promise.all(requests);

    expect(tally(answers.map((answer) => answer.status))).toEqual({ 201: 50 });
    expect(await audit(cluster.catalogUrl)).toMatchObject({ bookings: 50, violations: [] });
  });

  test("B1 B3: the storm with two nodes on one shard, each behind its own router, sells what there is", async () => {
    await using one = await startTestCluster({ shards: 1, env: PATIENT });
    // A second catalog that knows only the second node: its router never talks to the first.
    await using two = await startTestCluster({ shards: 1, routers: 0, env: PATIENT });
    const shard = one.shards[0];
    if (shard === undefined) throw new Error("one shard");
    for (const node of two.nodes.splice(0)) await node.close();
    await two.addNode({ id: shard.id, databaseUrl: shard.databaseUrl });
    await two.addRouter();
    const clients = [one.client(), two.client()];
    const event = await clients[0]?.createEvent({ totalTickets: 500 });
    if (event === undefined) throw new Error("an event was created");

    const answers = await crowd(Array.from({ length: 2_000 }), async (_, index) => {
      const user = `user-${index >> 1}`;
      const key: Record<string, string> = (index >> 1) % 5 === 0 ? { "idempotency-key": "once" } : {};
      return clients[index % 2]?.book(event.id, user, (index >> 1) % 3 === 0 ? 2 : 1, key);
    });

    const booked = new Map(answers.flatMap((a) => (a?.status === 201 ? [[a.body.id, a.body] as const] : [])));
    expect([...booked.values()].reduce((sum, booking) => sum + booking.quantity, 0)).toBe(500);
    expect(Object.keys(tally(answers.map((a) => a?.status ?? 0))).sort()).toEqual(["201", "409"]);
    expect(await audit(one.catalogUrl)).toMatchObject({
      bookings: booked.size,
      ticketsSold: 500,
      violations: [],
    });
  });
});

describe("the catalog", () => {
  test("F3: away, nothing changes for clients", async () => {
    await using server = await startPostgresServer({ databases: ["catalog_template"] });
    await migrate(server.url("catalog_template"), "catalog");
    await using cluster = await startTestCluster({ catalogServer: server.url("") });
    const client = cluster.client();
    const event = await client.createEvent();
    process.kill(server.pid, "SIGKILL");

    await eventually("the nodes have missed the catalog", async () => {
      const answer = await client.book(event.id, "a");
      expect([201, 409]).toContain(answer.status);
      return (await client.send("GET", "/v1/events")).status === 200 && answer.status === 409;
    });
    expect((await client.createEvent()).version).toBe(1);
    expect((await fetch(`${cluster.routers[0]?.adminUrl}/readyz`)).status).toBe(200);
  });
});

describe.skipIf(findRedisServer() === undefined)("Redis", () => {
  test("F4: gone, reads and bookings go on; back again, it is used again", async () => {
    const port = await chooseFreePort(new Set());
    await using redis = await startRedisServer(port);
    await using cluster = await startTestCluster({
      shards: 1,
      routers: 2,
      redisUrl: `redis://127.0.0.1:${port}`,
    });
    const [here, there] = cluster.routers.map((router) => cluster.client(router));
    if (here === undefined || there === undefined) throw new Error("two routers");
    const up = async () => metric(cluster.routers[0]?.adminUrl, /^onsale_redis_up (\d)/m);
    const event = await here.createEvent();
    await eventually("Redis is in use", async () => (await up()) === 1);

    await redis[Symbol.asyncDispose]();
    await eventually("its loss is seen", async () => (await up()) === 0);
    expect((await here.book(event.id, "a")).status).toBe(201);
    expect((await here.readEvent(event.id)).availableTickets).toBe(99);
    await eventually(
      "the other router shows it",
      async () => (await there.readEvent(event.id)).version === 2,
      1_000,
    );

    await using _again = await startRedisServer(port);
    await eventually("Redis is in use again", async () => (await up()) === 1);
    await there.readEvent(event.id);
    await eventually("changes are carried by Redis again", async () => {
      await there.readEvent(event.id);
      const cancelled = await here.hold(event.id, "b", { quantity: 1 });
      const { version } = await here.readEvent(event.id);
      await here.cancel(cancelled.body.id, "b");
      return (
        version > 1 &&
        (await metric(cluster.nodes[0]?.adminUrl, /onsale_snapshot_publish_seconds_count (\d+)/)) > 1
      );
    });
  });
});
