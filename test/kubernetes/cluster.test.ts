/**
 * The chart on a real cluster, in the order of a cluster's life: it is installed, loses one part after the other, is
 * upgraded, grows, gets new secrets, and goes, all under load.
 */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { execa } from "execa";
import getPort from "get-port";
import { afterAll, beforeAll, expect, test } from "vitest";
import { mintToken } from "../../router/callers/tokens.ts";
import { RPC } from "../../shared/wire/rpc.ts";
import { eventually } from "../support/eventually.ts";
import {
  apply,
  blockAfter,
  component,
  deletePod,
  IMAGE,
  install,
  instancesOf,
  kubectl,
  NAMESPACE,
  NEXT_IMAGE,
  nothingEnds,
  outputOf,
  pods,
  query,
  rollback,
  ROOT,
  routerUrl,
  secretOf,
  upgrade,
} from "./release.ts";
import {
  failedIn,
  overloadedIn,
  RECOVERED_MS,
  requestsPerSecondIn,
  type Rush,
  rush,
  tableOf,
} from "./rush.ts";

const INSTALLED_MAX_MS = 240_000;
/** The read side copies a new shard before it answers for all. */
const LISTED_MAX_MS = 60_000;
const ORGANIZER = "the-organizer";
const BUYER = `a-buyer-${process.pid}`;
/** A node that was lost has not told Redis of its last commits: an entry lives for 5 s, and memory for 0.8 s after it. */
const STALE_UNPUBLISHED_MS = 6_000;
const DOCUMENT = readFileSync(`${ROOT}/docs/kubernetes.md`, "utf8");

const directory = mkdtempSync(join(tmpdir(), "onsale-kubernetes-"));
const rushes: Rush[] = [];
/** Made by the lines of the notes. */
let firstEvent = "";
let allPassed = false;

beforeAll(async () => {
  if (process.env["KUBERNETES_KEEP"] !== "true") return;
  // The release that is there, or one to go on with.
  const { stdout } = await execa("helm", ["list", "--namespace", NAMESPACE, "--short"]);
  if (stdout === "") await install();
  await everythingIsReady();
});
afterAll(() => {
  console.log(tableOf(rushes));
  if (allPassed) rmSync(directory, { recursive: true });
  else console.log(`logs of all requests: ${directory}`);
});

test.skipIf(process.env["KUBERNETES_KEEP"] === "true")(
  "K6: installed on an empty cluster, it books the first ticket by the lines of its notes",
  async () => {
    const began = performance.now();
    const notes = await install();
    const lines = notes.split("\n").filter((line) => line.startsWith("  ") && !/ (test|logs) /.test(line));
    const port = await getPort();
    // The port-forward ends with the shell. Port 8080 of this machine may be taken.
    const script = ["trap 'kill $(jobs -p)' EXIT", ...lines]
      .join("\n")
      .replaceAll("8080:8080", `${port}:8080`);
    const printed = await outputOf("bash", ["-c", script.replaceAll("127.0.0.1:8080", `127.0.0.1:${port}`)]);
    const seconds = (performance.now() - began) / 1_000;
    console.log(`installed, and the first ticket booked: ${seconds.toFixed(0)} s`);
    expect(printed).toContain("HTTP/1.1 201 Created");
    firstEvent = /"eventId":"([^"]+)"/.exec(printed)?.[1] ?? "";
    expect(seconds * 1_000).toBeLessThan(INSTALLED_MAX_MS);
    await everythingIsReady();
    await outputOf("helm", ["test", "onsale", "--namespace", NAMESPACE]);
  },
);

test.for([
  ["the primary of shard-a", `${instancesOf("shard-a")},cnpg.io/instanceRole=primary`, "shard-a"],
  ["the node of shard-b", `${component("node")},onsale/shard=shard-b`, "shard-b"],
  ["a router", component("router"), ""],
  ["Redis", component("redis"), ""],
  ["RabbitMQ", component("rabbitmq"), ""],
  ["the primary of the catalog", `${instancesOf("catalog")},cnpg.io/instanceRole=primary`, ""],
] as const)("K7: %s is deleted, and nothing is lost or doubled", async ([what, selector, shard]) => {
  const seen = await underLoad(`${what} is deleted`, async () => deletePod(selector), STALE_UNPUBLISHED_MS);
  const wrong = failedIn(seen).filter(
    ({ label, sent }) => label !== shard || sent.at > seen.began + RECOVERED_MS,
  );
  expect(described(wrong, seen)).toEqual([]);
  // Everybody sells again.
  for (const each of new Set(seen.outcomes.map(({ label }) => label)))
    expect(
      seen.outcomes.findLast(({ label, failure }) => label === each && failure === undefined)?.sent.at,
    ).toBeGreaterThan(seen.began + RECOVERED_MS);
});

test("K8: upgraded to an image with a newer schema, rolled back, and upgraded to another image, without a failed request", async () => {
  const [, next = ""] = NEXT_IMAGE.split(":");
  const [, tag = ""] = IMAGE.split(":");
  const hasNewSchema = async () => {
    const [row] = await query<{ there: boolean }>("shard-a", {
      text: "select to_regclass('of_the_next_version') is not null as there",
    });
    return row?.there;
  };
  expectNoFailure(await underLoad("upgrade with a newer schema", async () => upgrade(`image.tag=${next}`)));
  expect([await hasNewSchema(), await imagesOf("node"), await imagesOf("router")]).toEqual([
    true,
    [NEXT_IMAGE],
    [NEXT_IMAGE],
  ]);
  expectNoFailure(await underLoad("rollback, the schema stays", rollback));
  expect([await hasNewSchema(), await imagesOf("node")]).toEqual([true, [IMAGE]]);
  await upgrade(`image.tag=${next}`);
  expectNoFailure(await underLoad("upgrade to another image", async () => upgrade(`image.tag=${tag}`)));
});

test("K8: there are four routers instead of two, and then two again, without a failed request", async () => {
  const scaled = async () => {
    await upgrade("routers.replicas=4");
    expect(await pods(component("router"))).toHaveLength(4);
    await upgrade("routers.replicas=2");
    expect(await pods(component("router"))).toHaveLength(2);
  };
  expectNoFailure(await underLoad("routers 2, 4, 2", scaled));
});

test("K8: secrets are exchanged by the lines of the documents, without a failed request", async () => {
  const oldPassword = await secretOf("onsale-shard-a-onsale", "password");
  const functions = blockAfter("Two shell functions help", DOCUMENT);
  const exchange = async (sentence: string) => {
    const lines = `${functions}\n${blockAfter(sentence, DOCUMENT)}`;
    await outputOf("bash", ["-euc", `set -o pipefail\n${lines}`]);
    await nothingEnds();
  };
  const exchangeUnderLoad = async (what: string, sentence: string) =>
    expectNoFailure(await underLoad(`${what} exchanged`, async () => exchange(sentence)));

  const oldToken = await secretOf("onsale-secrets", "INTERNAL_TOKEN");
  await exchangeUnderLoad("INTERNAL_TOKEN is", "**`INTERNAL_TOKEN`.**");
  expect(await secretOf("onsale-secrets", "INTERNAL_TOKEN")).not.toBe(oldToken);

  // Clients keep their tokens, which the old secret signed.
  const oldSecret = await secretOf("onsale-secrets", "AUTH_JWT_SECRET");
  await exchangeUnderLoad("AUTH_JWT_SECRET is", "**`AUTH_JWT_SECRET`.**");
  expect(await secretOf("onsale-secrets", "AUTH_JWT_SECRET")).not.toBe(oldSecret);
  expect((await asked("/v1/bookings", BUYER)).status).toBe(200);
  expect((await asked("/v1/bookings", BUYER, { secret: oldSecret })).status).toBe(200);
  await exchange("When the last token of the old one has expired");
  expect((await asked("/v1/bookings", BUYER)).status).toBe(200);
  expect((await asked("/v1/bookings", BUYER, { secret: oldSecret })).status).toBe(401);

  await exchangeUnderLoad("passwords of databases are", "**A database's password**");
  expect(await secretOf("onsale-shard-a-onsale", "password")).not.toBe(oldPassword);
  const [node] = await pods(`${component("node")},onsale/shard=shard-a`);
  expect(await kubectl("exec", node?.name ?? "", "--", "printenv", "DATABASE_URL")).toContain("//onsale_2:");
});

test("K9: a third shard comes by values without a failed request, is given empty slots, and sells", async () => {
  const names = ["shard-a", "shard-b", "shard-c"].map((name, index) => `shards[${index}].name=${name}`);
  expectNoFailure(await underLoad("a third shard", async () => upgrade(...names)));
  const owners = { text: "select distinct shard_id as shard from slots order by 1" };
  expect(await query("catalog", owners)).toEqual([{ shard: "shard-a" }, { shard: "shard-b" }]);

  const taken = new Set<number>();
  for (const shard of ["shard-a", "shard-b"])
    for (const { slot } of await query<{ slot: number }>(shard, { text: "select distinct slot from events" }))
      taken.add(slot);
  const empty = Array.from({ length: 4_096 }, (_, slot) => slot).filter((slot) => !taken.has(slot));
  const [first = 0, ...others] = empty.slice(0, 60);
  const auditor = ["exec", "deployment/onsale-auditor", "--", "node"];
  await kubectl(...auditor, "migrations/move-slot.ts", "--slot", String(first), "--to", "shard-c");
  await kubectl(
    ...auditor,
    "--input-type=module",
    "--eval",
    `import { moveEmptySlot } from "/app/migrations/shards.ts";
     for (const slot of ${JSON.stringify(others)}) await moveEmptySlot(process.env.CATALOG_URL, slot, "shard-c");`,
  );
  const [full = 0] = taken;
  await expect(
    kubectl(...auditor, "migrations/move-slot.ts", "--slot", String(full), "--to", "shard-c"),
  ).rejects.toThrow(/holds/);

  // Every few dozen events one is of these slots.
  const ofThird = async () => query<{ id: string }>("shard-c", { text: "select id from events limit 1" });
  const event = await eventually(
    "an event is on the third shard",
    async () => {
      await Promise.all(Array.from({ length: 20 }, async () => created()));
      return (await ofThird())[0];
    },
    60_000,
  );
  expect((await booked(event.id)).status).toBe(201);
  await isListed(event.id);
  const [router] = await pods(component("router"));
  const metrics = await outputOf("kubectl", [
    "get",
    "--raw",
    `/api/v1/namespaces/${NAMESPACE}/pods/${router?.name}:8081/proxy/metrics`,
  ]);
  expect(metrics).toContain('onsale_shard_breaker_open{shard="shard-c"} 0');
  const { stdout } = await execa("kubectl", ["--namespace", NAMESPACE, ...auditor, "audit/main.ts"]);
  expect(stdout).toContain("audit clean: 3 shards");
});

test("K10: a pod without credentials is refused by databases, Redis, RabbitMQ and nodes", async () => {
  // As far as a password lets one in: networks may not enforce policies.
  const script = `
    import { connect } from "node:net";
    import { once } from "node:events";
    import postgres from "postgres";
    import { connect as amqp } from "amqplib";
    const answers = {};
    const ask = async (name, question) => (answers[name] = await question().catch((error) => error.code ?? error.message));
    const database = (host, options) => async () => {
      const sql = postgres({ host, database: "shard", username: "onsale", connect_timeout: 10, max: 1, ...options });
      try { return await sql\`select 1\`; } finally { await sql.end({ timeout: 1 }); }
    };
    const guess = { ssl: { rejectUnauthorized: false }, password: "a guess" };
    await ask("database", database("onsale-shard-a-rw", guess));
    await ask("replica", database("onsale-shard-a-ro", guess));
    await ask("superuser", database("onsale-shard-a-rw", { ...guess, username: "postgres" }));
    await ask("database without TLS", database("onsale-shard-a-rw", { ssl: false, password: "a guess" }));
    await ask("Redis", async () => {
      const socket = connect(6379, "onsale-redis");
      socket.write("GET a\\r\\n");
      const [answer] = await once(socket, "data");
      socket.destroy();
      return String(answer).trim();
    });
    await ask("RabbitMQ", async () => amqp("amqp://onsale:guess@onsale-rabbitmq:5672"));
    const node = (headers) => async () => (await fetch("http://onsale-nodes:9090${RPC.map}", { headers })).status;
    await ask("node", node({}));
    await ask("node, by a guess", node({ authorization: "Bearer a-guess" }));
    console.log(JSON.stringify(answers));`;
  const limits = { memory: "256Mi" };
  await kubectl("delete", "pod", "stranger", "--ignore-not-found");
  await apply({
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name: "stranger" },
    spec: {
      restartPolicy: "Never",
      securityContext: { runAsNonRoot: true, runAsUser: 1000, seccompProfile: { type: "RuntimeDefault" } },
      containers: [
        {
          name: "stranger",
          image: IMAGE,
          command: ["node", "--input-type=module", "--eval", script],
          resources: { limits },
          securityContext: { allowPrivilegeEscalation: false, capabilities: { drop: ["ALL"] } },
        },
      ],
    },
  });
  await kubectl("wait", "pod/stranger", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s");
  expect(JSON.parse(await kubectl("logs", "stranger"))).toEqual({
    database: "28P01",
    replica: "28P01",
    superuser: "28P01",
    "database without TLS": "28000",
    Redis: expect.stringMatching(/^-NOAUTH/),
    RabbitMQ: expect.stringContaining("ACCESS"),
    node: 401,
    "node, by a guess": 401,
  });
});

test("K5: databases outlive helm uninstall, and helm install finds them again", async () => {
  const bookings = { text: "select count(*)::int as bookings from bookings" };
  const before = await query("shard-a", bookings);
  const secret = await secretOf("onsale-secrets", "AUTH_JWT_SECRET");
  const labels = await kubectl(
    "get",
    "cluster",
    "--output",
    "jsonpath={.items[*].metadata.labels.onsale/shard}",
  );
  await outputOf("helm", ["uninstall", "onsale", "--namespace", NAMESPACE]);
  await eventually("routers are gone", async () => (await pods(component("router"))).length === 0, 60_000);
  expect(await query("shard-a", bookings)).toEqual(before);

  // Without its shard in the list its tickets would be out of reach.
  await expect(install("shards[1].name=another")).rejects.toThrow(/shard-b has a database/);
  await install(...labels.split(" ").map((name, index) => `shards[${index}].name=${name}`));
  await everythingIsReady();
  expect(await secretOf("onsale-secrets", "AUTH_JWT_SECRET")).toBe(secret);
  expect(await query("shard-a", bookings)).toEqual(before);
  const event = firstEvent === "" ? await created() : firstEvent;
  expect((await booked(event)).status).toBe(201);
  await isListed(event);
  await kubectl("exec", "deployment/onsale-auditor", "--", "node", "audit/main.ts");
  allPassed = true;
});

async function underLoad(what: string, change: () => Promise<void>, staleMs?: number): Promise<Rush> {
  const seen = await rush(what, change, { directory, ...(staleMs === undefined ? {} : { staleMs }) });
  rushes.push(seen);
  console.log(tableOf([seen]));
  expect(seen.problems).toEqual([]);
  return seen;
}

/** While the machine keeps up, requests of a second at most are told that nothing was done. */
function expectNoFailure(seen: Rush): void {
  expect(described(failedIn(seen), seen)).toEqual([]);
  expect(overloadedIn(seen)).toBeLessThan(requestsPerSecondIn(seen));
}

const described = (some: readonly ReturnType<typeof failedIn>[number][], { began }: Rush): string[] =>
  some
    .slice(0, 10)
    .map(
      ({ sent, label, failure }) =>
        `${sent.operation} of ${label}, ${Math.round(sent.at - began)} ms: ${failure}`,
    );

const imagesOf = async (name: string) => [
  ...new Set((await pods(component(name))).map(({ image }) => image)),
];

/** Everything of the release answers probes, and databases have their replicas. */
async function everythingIsReady(): Promise<void> {
  await eventually(
    "everything is ready",
    async () => {
      const all = await pods("app.kubernetes.io/instance=onsale,app.kubernetes.io/component notin (migrate)");
      const databases = await pods("cnpg.io/cluster,cnpg.io/podRole=instance");
      const { items } = JSON.parse(await kubectl("get", "cluster", "--output", "json")) as {
        items: { spec: { instances: number } }[];
      };
      const instances = items.reduce((sum, { spec }) => sum + spec.instances, 0);
      return (
        databases.length === instances &&
        [...all, ...databases].every(({ ready, ending }) => ready && !ending)
      );
    },
    INSTALLED_MAX_MS,
  );
}

async function asked(
  path: string,
  user: string,
  { body, secret }: { body?: object; secret?: string } = {},
): Promise<Response> {
  const token = await mintToken({
    secret: secret ?? (await secretOf("onsale-secrets", "AUTH_JWT_SECRET")),
    sub: user,
    role: user === ORGANIZER ? "organizer" : "buyer",
    ttlSeconds: 600,
  });
  return fetch(`${await routerUrl()}${path}`, {
    method: body === undefined ? "GET" : "POST",
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
}

/** The id of a new event. */
async function created(): Promise<string> {
  const body = { name: "A concert", startsAt: "2099-01-01T20:00:00Z", totalTickets: 100 };
  return ((await (await asked("/v1/events", ORGANIZER, { body })).json()) as { id: string }).id;
}

const booked = async (event: string) =>
  asked(`/v1/events/${event}/bookings`, BUYER, { body: { quantity: 1 } });

/** Resolves when the buyer's list, which the read side makes of all shards, has a booking of the event. */
async function isListed(event: string): Promise<void> {
  await eventually(
    "the buyer's list has it",
    async () => {
      const answer = await asked("/v1/bookings", BUYER);
      return answer.ok && (await answer.text()).includes(event);
    },
    LISTED_MAX_MS,
  );
}
