import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { parseEnv } from "node:util";
import getPort from "get-port";
import { expect, test } from "vitest";
import { AUDITED_RULES } from "../../audit/audit.ts";
import { routerConfig } from "../../router/config.ts";
import { nodeConfig } from "../../shard-node/config.ts";
import { migrate } from "../../migrations/runner.ts";
import { readConfig } from "../../shared/process/config.ts";
import { RPC } from "../../shared/wire/rpc.ts";
import { Client, INTERNAL_TOKEN, RPC_HEADERS, SECRET, startTestCluster } from "../support/running-cluster.ts";
import { administer, createDatabase, createEmptyDatabase } from "../support/databases.ts";
import { eventually } from "../support/eventually.ts";
import { start } from "../support/run.ts";

test("E4: a role whose settings cannot be used lists every problem and exits 1", async () => {
  const bare: Record<string, string[]> = {
    "router/main.ts": ["NODE_URLS", "INTERNAL_TOKEN", "AUTH_JWT_SECRET"],
    "shard-node/main.ts": ["SHARD_ID", "DATABASE_URL", "CATALOG_URL", "INTERNAL_TOKEN"],
    "migrations/main.ts": ["CATALOG_URL", "SHARD_URLS"],
    "migrations/move-slot.ts": ["CATALOG_URL"],
  };
  for (const [script, names] of Object.entries(bare)) {
    await using program = start(script);
    const { code, stdout, stderr } = await program.exited;
    expect([script, code, stdout]).toEqual([script, 1, ""]);
    for (const name of names) expect(stderr).toContain(`  ${name}: `);
    expect(stderr).not.toMatch(/\n\s+at /);
  }
  await using nonsense = start("router/main.ts", {
    NODE_URLS: "not-a-url",
    INTERNAL_TOKEN: "short",
    AUTH_JWT_SECRET: SECRET,
    AUTH_JWKS_URL: "http://127.0.0.1/keys",
    PORT: "99999",
    RPC_BATCH_MAX: "0",
    LOG_LEVEL: "loud",
  });
  const { code, stderr } = await nonsense.exited;
  expect(code).toBe(1);
  for (const name of ["NODE_URLS", "INTERNAL_TOKEN", "PORT", "RPC_BATCH_MAX", "LOG_LEVEL"])
    expect(stderr).toContain(`${name}`);
});

test("E4: a port in use is one clear line", async () => {
  await using cluster = await startTestCluster({ shards: 1 });
  const taken = new URL(cluster.routers[0]?.url ?? "").port;
  await using router = start("router/main.ts", {
    NODE_URLS: cluster.nodes[0]?.url ?? "",
    INTERNAL_TOKEN,
    AUTH_JWT_SECRET: SECRET,
    PORT: taken,
    ADMIN_PORT: "0",
  });
  const { code, stderr } = await router.exited;
  expect(code).toBe(1);
  expect(stderr.trim()).toBe(`router: 127.0.0.1:${taken} is in use`);
});

test("A6 E4: the admin port listens where ADMIN_HOST says, and nowhere else", async () => {
  // RFC 5737 §3: an address that no machine has.
  const elsewhere = {
    INTERNAL_TOKEN,
    PORT: "0",
    ADMIN_PORT: "0",
    ADMIN_HOST: "192.0.2.1",
    LOG_LEVEL: "silent",
  };
  const nowhere = "postgres://127.0.0.1:1/none";
  await using router = start("router/main.ts", {
    ...elsewhere,
    NODE_URLS: "http://127.0.0.1:1",
    AUTH_JWT_SECRET: SECRET,
  });
  await using node = start("shard-node/main.ts", {
    ...elsewhere,
    SHARD_ID: "solo",
    DATABASE_URL: nowhere,
    CATALOG_URL: nowhere,
  });
  for (const role of [router, node]) {
    const { code, stderr } = await role.exited;
    expect(code).toBe(1);
    expect(stderr).toMatch(/^\S+: HOST or ADMIN_HOST 192\.0\.2\.1 is no address of this machine\n$/);
  }
});

test("E4 D2 J12: the secrets of .env.example, and targets inside, are refused outside of development, each on a line", async () => {
  const example = parseEnv(readFileSync(`${import.meta.dirname}/../../.env.example`, "utf8"));
  const secrets = Object.entries(example).filter(([name]) => name !== "ONSALE_ENV");
  expect(secrets.length).toBeGreaterThan(4);
  for (const [name, value] of secrets)
    expect([name, value?.startsWith("example-only-")]).toEqual([name, true]);

  const url = `postgres://onsale:${example["ONSALE_PASSWORD"]}@127.0.0.1:1/shard`;
  const env = {
    INTERNAL_TOKEN: example["INTERNAL_TOKEN"] ?? "",
    AUTH_JWT_SECRET: example["AUTH_JWT_SECRET"] ?? "",
    NODE_URLS: "http://127.0.0.1:1",
    SHARD_ID: "shard-0",
    DATABASE_URL: url,
    CATALOG_URL: url,
    SHARD_URLS: `shard-0=${url}`,
  };
  const names = ["INTERNAL_TOKEN", "AUTH_JWT_SECRET", "DATABASE_URL", "CATALOG_URL", "SHARD_URLS"];
  for (const script of ["router/main.ts", "shard-node/main.ts", "migrations/main.ts"]) {
    await using refused = start(script, { ...env, ONSALE_ENV: "production" });
    const { code, stderr } = await refused.exited;
    expect([script, code]).toEqual([script, 1]);
    for (const name of names) expect(stderr).toContain(`\n  ${name}: holds a secret of .env.example`);
  }
  const inside = { ...env, WEBHOOK_TARGETS: "any" };
  expect(() => readConfig(nodeConfig, inside)).toThrow(
    "WEBHOOK_TARGETS: any goes with ONSALE_ENV=development only",
  );
  expect(readConfig(nodeConfig, { ...inside, ONSALE_ENV: "development" }).WEBHOOK_TARGETS).toBe("any");
  const development = { ...env, ONSALE_ENV: "development", ADVERTISE_URL: "http://{hostname}:9090" };
  expect(readConfig(routerConfig, development).INTERNAL_TOKEN).toBe(example["INTERNAL_TOKEN"]);
  expect(readConfig(nodeConfig, development).ADVERTISE_URL).toBe(`http://${hostname()}:9090`);
});

test("E4 D2: every mistake in .env is named before anything starts", async () => {
  const long = "a-secret-of-the-tests-that-is-long-enough";
  const good = {
    AUTH_JWT_SECRET: long,
    INTERNAL_TOKEN: long,
    POSTGRES_PASSWORD: "one",
    ONSALE_PASSWORD: "two",
    REPLICATION_PASSWORD: "three-3",
    MONITOR_PASSWORD: "four",
    REDIS_PASSWORD: "five",
    RABBITMQ_PASSWORD: "six",
    READ_SIDE_PASSWORD: "seven",
  };
  const said = async (env: Record<string, string>) => {
    await using settings = start("deploy/settings.ts", env);
    const { code, stdout, stderr } = await settings.exited;
    return { code, said: stdout + stderr };
  };
  expect(await said(good)).toEqual({ code: 0, said: "" });

  const bad = {
    ...good,
    ONSALE_ENV: "developement",
    INTERNAL_TOKEN: "short",
    ONSALE_PASSWORD: "p@ss/w#rd",
    MONITOR_PASSWORD: "example-only-monitor-password",
    CLIENT_CONNECTIONS_MAX: "0",
    CLIENT_REQUESTS_MAX: "lots",
  };
  expect(await said(bad)).toEqual({
    code: 1,
    said: `.env: these settings cannot be used:
  ONSALE_ENV: must be production or development
  INTERNAL_TOKEN: must be at least 32 characters
  ONSALE_PASSWORD: must be of letters, digits, and - . _ ~ only
  CLIENT_CONNECTIONS_MAX: must be at least 1
  CLIENT_REQUESTS_MAX: must be a whole number from 1 to 1000000
  MONITOR_PASSWORD: holds a secret of .env.example; make your own (openssl rand -hex 32)
`,
  });
});

test("D2: make-env.sh writes secrets of its own, for nobody else to read, and overwrites none", async () => {
  const file = join(mkdtempSync(join(tmpdir(), "onsale-env-")), "env");
  const make = () =>
    spawnSync(`${import.meta.dirname}/../../deploy/make-env.sh`, [file], { encoding: "utf8" });
  expect(make()).toMatchObject({ status: 0, stderr: "" });
  const written = readFileSync(file, "utf8");
  const env = parseEnv(written) as Record<string, string>;
  await using settings = start("deploy/settings.ts", env);
  expect(await settings.exited).toMatchObject({ code: 0 });
  const secrets = Object.entries(env).filter(([name]) => /SECRET|TOKEN|PASSWORD/.test(name));
  expect(new Set(secrets.map(([, value]) => value)).size).toBe(10);
  expect(statSync(file).mode & 0o077).toBe(0);

  expect(make()).toMatchObject({ status: 1, stderr: expect.stringContaining("exists already") as string });
  expect(readFileSync(file, "utf8")).toBe(written);
  rmSync(dirname(file), { recursive: true });
});

test("D4 F5: who is told to stop says so, serves on for its grace, and then ends", async () => {
  await using cluster = await startTestCluster({ shards: 1 });
  const grace = { DRAIN_GRACE_MS: "4000" };
  const shard = cluster.shards[0];
  if (shard === undefined) throw new Error("there is a shard");
  const router = await cluster.addRouter(grace);
  const leaving = await cluster.addNode(shard, grace);
  // They are closed here, not with the cluster.
  cluster.routers.pop();
  cluster.nodes.pop();
  const client = cluster.client(router);
  const event = await client.createEvent();
  const headers = RPC_HEADERS;
  const announced = async () => {
    const map = await fetch(`${cluster.nodes[0]?.url}${RPC.map}`, { headers });
    return ((await map.json()) as { shards: { nodeUrls: string[] }[] }).shards[0]?.nodeUrls ?? [];
  };
  await eventually("both nodes are known", async () => (await announced()).length === 2);

  const asked = performance.now();
  const closing = Promise.all([router.close(), leaving.close()]);
  for (const { adminUrl } of [router, leaving]) {
    const said = await fetch(`${adminUrl}/readyz`);
    expect([said.status, await said.json()]).toEqual([503, { status: "unready", reason: "draining" }]);
    // For a load balancer that is to know it from a fault.
    expect((await fetch(`${adminUrl}/readyz?draining=404`)).status).toBe(404);
  }
  await eventually("routers learn of the other node only", async () => (await announced()).length === 1);
  expect((await client.book(event.id, "late")).status).toBe(201);
  expect((await fetch(`${leaving.url}${RPC.map}`, { headers })).status).toBe(200);
  expect(performance.now() - asked).toBeLessThan(4_000);

  await closing;
  expect(performance.now() - asked).toBeGreaterThan(3_900);
  await expect(client.readEvent(event.id)).rejects.toThrow("fetch failed");
});

test("G1 G2: migrations wait for a database that is only just being made, and leave a newer schema alone where told so", async () => {
  await using catalog = await createDatabase("catalog");
  await using shard = await createEmptyDatabase();
  const later = new URL(shard.url);
  later.pathname = `${later.pathname}_later`;
  const env = { CATALOG_URL: catalog.url, SHARD_URLS: `solo=${later.href}` };

  await using impatient = start("migrations/main.ts", env);
  expect(await impatient.exited).toMatchObject({
    code: 1,
    stderr: expect.stringContaining("does not exist"),
  });

  await using waiting = start("migrations/main.ts", { ...env, WAIT_SECONDS: "60" });
  await eventually("it waits", () => waiting.printed().includes("waiting for solo: "));
  await administer(shard.url, `create database "${later.pathname.slice(1)}"`);
  expect(await waiting.exited).toMatchObject({
    code: 0,
    stdout: expect.stringContaining("solo owns 4096 slots"),
  });

  await administer(later.href, "insert into schema_migrations (name, checksum) values ('0900_future', '')");
  await using refusing = start("migrations/main.ts", env);
  expect(await refusing.exited).toMatchObject({ code: 1, stderr: expect.stringContaining("0900_future") });
  await using keeping = start("migrations/main.ts", { ...env, NEWER_SCHEMA: "keep" });
  expect(await keeping.exited).toMatchObject({
    code: 0,
    stdout: "solo: the schema is newer than this version's; nothing is changed\n",
  });
  await administer(shard.url, `drop database "${later.pathname.slice(1)}"`);
});

test("E3 F5: the roles start one by one from their environment, sell a ticket, and end with exit code 0", async () => {
  await using catalog = await createDatabase("catalog");
  await using shard = await createDatabase("shard");
  const env = { INTERNAL_TOKEN, CATALOG_URL: catalog.url, LOG_LEVEL: "info" };
  await using migrating = start("migrations/main.ts", { ...env, SHARD_URLS: `solo=${shard.url}` });
  expect(await migrating.exited).toMatchObject({
    code: 0,
    stdout: expect.stringContaining("solo owns 4096 slots"),
  });

  const [nodePort, nodeAdmin, port, admin] = [
    await getPort(),
    await getPort(),
    await getPort(),
    await getPort(),
  ].map(String) as [string, string, string, string];
  await using node = start("shard-node/main.ts", {
    ...env,
    SHARD_ID: "solo",
    DATABASE_URL: shard.url,
    PORT: nodePort,
    ADMIN_PORT: nodeAdmin,
  });
  await using router = start("router/main.ts", {
    ...env,
    NODE_URLS: `http://127.0.0.1:${nodePort}`,
    AUTH_JWT_SECRET: SECRET,
    PORT: port,
    ADMIN_PORT: admin,
  });
  const ready = async (adminPort: string) =>
    fetch(`http://127.0.0.1:${adminPort}/readyz`)
      .then((r) => r.ok)
      .catch(() => false);
  await eventually("both are ready", async () => (await ready(nodeAdmin)) && ready(admin));

  const client = new Client(`http://127.0.0.1:${port}`);
  const event = await client.createEvent();
  expect((await client.book(event.id, "ada")).status).toBe(201);

  await using audit = start("audit/main.ts", env);
  expect(await audit.exited).toMatchObject({
    code: 0,
    stdout: "audit clean: 1 shards, 1 events, 1 bookings, 1 tickets sold\n",
  });
  for (const role of [router, node]) {
    role.stop("SIGTERM");
    role.stop("SIGTERM");
    const ended = await role.exited;
    expect([ended.code, ended.stderr]).toEqual([0, ""]);
    for (const line of ended.stdout.trim().split("\n")) expect(JSON.parse(line)).toMatchObject({ level: 30 });
  }
});

test("W3: the auditor audits again and again, and its metrics say what it found and when", async () => {
  await using cluster = await startTestCluster({ shards: 1 });
  const database = cluster.shards[0]?.databaseUrl ?? "";
  const client = cluster.client();
  await client.book((await client.createEvent()).id, "ada");
  const adminPort = String(await getPort());
  await using auditor = start("audit/auditor/main.ts", {
    CATALOG_URL: cluster.catalogUrl,
    ADMIN_PORT: adminPort,
    AUDIT_INTERVAL_SECONDS: "1",
    LOG_LEVEL: "warn",
  });
  const ask = async (path: string) => fetch(`http://127.0.0.1:${adminPort}${path}`).catch(() => undefined);
  const figure = async (name: string) =>
    Number(
      (await (await ask("/metrics"))?.text())
        ?.split("\n")
        .find((line) => line.startsWith(`${name} `))
        ?.split(" ")
        .at(-1),
    );
  await eventually("an audit has ended", async () => (await ask("/readyz"))?.ok);
  for (const rule of AUDITED_RULES) expect(await figure(`onsale_audit_violations{rule="${rule}"}`)).toBe(0);
  const first = await figure("onsale_audit_last_run_timestamp_seconds");
  expect(Math.abs(Date.now() / 1000 - first)).toBeLessThan(60);

  await administer(database, "update events set available_tickets = available_tickets - 1");
  await eventually(
    "the damage shows",
    async () => (await figure('onsale_audit_violations{rule="B2"}')) === 1,
  );
  expect(await figure("onsale_audit_last_run_timestamp_seconds")).toBeGreaterThan(first);
  expect(await figure('onsale_audit_violations{rule="B1"}')).toBe(0);
  await administer(database, "update events set available_tickets = available_tickets + 1");
  await eventually(
    "the repair shows",
    async () => (await figure('onsale_audit_violations{rule="B2"}')) === 0,
  );

  auditor.stop("SIGTERM");
  const { code, stdout } = await auditor.exited;
  expect([code, stdout]).toEqual([0, expect.stringContaining('"rule":"B2 tickets are conserved"')]);
});

test("W3: an auditor that is there before its databases audits as soon as they are", async () => {
  await using database = await createEmptyDatabase();
  const catalogUrl = database.url;
  const adminPort = String(await getPort());
  await using auditor = start("audit/auditor/main.ts", { CATALOG_URL: catalogUrl, ADMIN_PORT: adminPort });
  await eventually("it found no catalog", () => auditor.printed().includes("is away"));
  await migrate(catalogUrl, "catalog");
  await eventually(
    "an audit has ended",
    async () => (await fetch(`http://127.0.0.1:${adminPort}/readyz`)).ok,
  );
});

test("B1 B2 B3 R1 R2 R3: the audit finds every kind of damage, shows it, and exits 1", async () => {
  await using cluster = await startTestCluster({ shards: 2 });
  const client = cluster.client();
  const database = cluster.shards[0]?.databaseUrl ?? "";
  while ((await client.send<{ items: unknown[] }>("GET", "/v1/events")).body.items.length < 8) {
    await client.book((await client.createEvent()).id, "ada", 2);
  }
  const run = async () => {
    await using program = start("audit/main.ts", { CATALOG_URL: cluster.catalogUrl });
    return await program.exited;
  };
  expect((await run()).code).toBe(0);

  await administer(database, "alter table events drop constraint b1_never_oversold");
  const one = "id = (select min(id::text)::uuid from events)";
  for (const [rule, damage, repair] of [
    [
      "B1 never oversold",
      `update events set available_tickets = available_tickets + 1000 where ${one}`,
      `update events set available_tickets = available_tickets - 1000 where ${one}`,
    ],
    [
      "B2 tickets are conserved",
      `update events set available_tickets = available_tickets - 1 where ${one}`,
      `update events set available_tickets = available_tickets + 1 where ${one}`,
    ],
    [
      "B3 at most max_per_user",
      "update events set max_per_user = 1, highest_max_per_user = 1",
      "update events set max_per_user = 2, highest_max_per_user = 2",
    ],
    [
      "R1 an event is in its slot",
      `update events set slot = slot + 1 where ${one}`,
      `update events set slot = slot - 1 where ${one}`,
    ],
    [
      "R2 every slot has exactly one owner",
      "delete from owned_slots where slot = 7",
      "insert into owned_slots values (7, 1)",
    ],
    [
      "R3 a shard holds only events of slots it owns",
      "delete from owned_slots",
      "insert into owned_slots select slot, 1 from generate_series(0, 2047) slot",
    ],
  ] as const) {
    await administer(database, damage);
    const { code, stdout } = await run();
    expect([rule, code, stdout.includes(`: ${rule}: {`), stdout.includes("audit failed")]).toEqual([
      rule,
      1,
      true,
      true,
    ]);
    await administer(database, repair);
  }
  expect((await run()).stdout).toContain("audit clean");
  await using lost = start("audit/main.ts", { DATA_DIR: "/nonexistent" });
  expect(await lost.exited).toMatchObject({
    code: 1,
    stdout: "",
    stderr: expect.stringMatching(/^audit: no cluster found[^\n]*\n$/),
  });
});

test("S1: the token command prints a token that the router takes, and says what is wrong otherwise", async () => {
  await using cluster = await startTestCluster({ shards: 1 });
  await using minting = start("deploy/embedded/token.ts", { AUTH_JWT_SECRET: SECRET }, [
    "--sub",
    "maria",
    "--role",
    "organizer",
  ]);
  const { code, stdout } = await minting.exited;
  expect(code).toBe(0);
  const created = await cluster.client().send("POST", "/v1/events", {
    headers: { authorization: `Bearer ${stdout.trim()}` },
    body: { name: "x", startsAt: "2030-01-01T00:00:00Z", totalTickets: 1 },
  });
  expect(created.status).toBe(201);
  for (const args of [
    [],
    ["--sub", ""],
    ["--sub", " x"],
    ["--sub", "x", "--role", "king"],
    ["--user", "x"],
  ]) {
    await using refused = start("deploy/embedded/token.ts", { AUTH_JWT_SECRET: SECRET }, args);
    expect(await refused.exited).toMatchObject({
      code: 1,
      stdout: "",
      stderr: expect.stringMatching(/^token: [^\n]+\n$/),
    });
  }
});
