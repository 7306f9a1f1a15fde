/** What a bug does to a process, and to those whose requests it had (F8). The processes are real ones. */
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import getPort from "get-port";
import { describe, expect, test } from "vitest";
import { audit } from "../../audit/audit.ts";
import { INTERNAL_TOKEN, SECRET, startTestCluster } from "../support/running-cluster.ts";
import { eventually } from "../support/eventually.ts";
import { copySources } from "../support/planted-copy.ts";
import { start } from "../support/run.ts";

interface LogLine {
  readonly level: number;
  readonly role: string;
  readonly err?: { readonly message: string; readonly facts?: unknown };
}
const FATAL = 60;

/** The lines of the log that say why a process ends. */
function fatalLines(stdout: string): LogLine[] {
  const lines = stdout.split("\n").filter((line) => line.startsWith("{"));
  return lines.map((line) => JSON.parse(line) as LogLine).filter(({ level }) => level === FATAL);
}

describe("a broken invariant", () => {
  test.for([
    ["caught", "however it is caught"],
    ["request", "in a request whose errors are all caught"],
    ["promise", "in a promise that nobody awaits"],
  ] as const)("F8: ends the process at once: %s", async ([bug]) => {
    await using role = start("test/support/buggy-role.ts", {}, [bug]);

    const { code, stdout, stderr } = await role.exited;

    expect([code, stderr]).toEqual([1, ""]);
    expect(stdout).not.toMatch(/^(went on|answered)$/m);
    expect(fatalLines(stdout)).toMatchObject([
      {
        role: "buggy",
        err: {
          message: 'invariant broken: no ticket is sold twice {"available":-1}',
          facts: { available: -1 },
        },
      },
    ]);
  });

  test("F8: after a commit, nobody is answered by the node, and the same key finds the booking", async () => {
    using copy = copySources();
    copy.plant({
      file: "shard-node/decide/decider.ts",
      find: "await this.#store.decide(commands, ids, { ...options, waits });",
      replace:
        "await this.#store.decide(commands, ids, options).then((d) => ({ ...d, decisions: d.decisions.slice(1) }));",
    });
    await using cluster = await startTestCluster({ shards: 1 });
    const { id } = await cluster.client().createEvent();
    const [shard] = cluster.shards;
    const [sound] = cluster.nodes.splice(0);
    if (shard === undefined || sound === undefined) throw new Error("one shard, one node");
    await sound.close();
    const [port, adminPort] = [await getPort(), await getPort()];
    await using buggy = start(join(copy.directory, "shard-node/main.ts"), {
      SHARD_ID: shard.id,
      DATABASE_URL: shard.databaseUrl,
      CATALOG_URL: cluster.catalogUrl,
      INTERNAL_TOKEN,
      HOST: "127.0.0.1",
      PORT: String(port),
      ADMIN_PORT: String(adminPort),
    });
    // Before the map names it, a router does not ask it.
    await eventually("the node is ready", async () => {
      const said = await fetch(`http://127.0.0.1:${adminPort}/readyz`).catch(() => undefined);
      return said?.ok === true;
    });
    const router = await cluster.addRouter({ NODE_URLS: `http://127.0.0.1:${port}` });
    const client = cluster.client(router);
    const key = { "idempotency-key": randomUUID() };

    const answer = await client.book(id, "buyer", 1, key);

    expect([answer.status, answer.body.code]).toEqual([503, "outcome_unknown"]);
    const { code, stdout } = await buggy.exited;
    expect(code).toBe(1);
    expect(fatalLines(stdout)).toMatchObject([
      {
        role: "shard-node",
        err: {
          message: 'invariant broken: every command of a batch is decided {"commands":1,"decisions":0}',
        },
      },
    ]);
    const node = await cluster.addNode(shard);
    const again = cluster.client(await cluster.addRouter({ NODE_URLS: node.url }));
    const found = await again.book(id, "buyer", 1, key);
    expect([found.status, found.headers.get("idempotency-replayed")]).toEqual([201, "true"]);
    expect((await again.readEvent(id)).availableTickets).toBe(99);
    expect((await audit(cluster.catalogUrl)).violations).toEqual([]);
  });

  test("F8: in a background loop that reports what fails and goes on, the process ends too", async () => {
    using copy = copySources();
    copy.plant({
      file: "shared/wire/nodes.ts",
      find: "async () => this.refresh(),",
      replace: `async () => {
        const { ownerOf } = await import("../domain/shard-map.ts");
        ownerOf({ version: 1, owners: [], owning: new Set(), nodeUrls: new Map() }, 0 as never);
      },`,
    });
    await using router = start(join(copy.directory, "router/main.ts"), {
      NODE_URLS: "http://127.0.0.1:1",
      INTERNAL_TOKEN,
      AUTH_JWT_SECRET: SECRET,
      HOST: "127.0.0.1",
      PORT: "0",
      ADMIN_PORT: "0",
    });

    const { code, stdout } = await router.exited;

    expect(code).toBe(1);
    expect(fatalLines(stdout)).toMatchObject([
      {
        role: "router",
        err: { message: expect.stringMatching(/^invariant broken: every slot has an owner/) },
      },
    ]);
  });
});

test("F8: an error that nobody foresaw and nobody catches ends the process too, with one line", async () => {
  await using role = start("test/support/buggy-role.ts", {}, ["unforeseen"]);

  const { code, stdout, stderr } = await role.exited;

  expect([code, stderr]).toEqual([1, ""]);
  expect(fatalLines(stdout)).toMatchObject([{ err: { message: "nobody foresaw this" } }]);
});
