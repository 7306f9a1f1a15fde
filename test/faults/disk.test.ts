/** A node whose database can be read and not written: its disk is full, or it only reads. */
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import getPort from "get-port";
import { expect, onTestFinished, test } from "vitest";
import { startPostgresServer } from "../../deploy/embedded/postgres-server.ts";
import { migrate } from "../../migrations/runner.ts";
import { settleShards } from "../../migrations/shards.ts";
import type { ShardId } from "../../shared/domain/ids.ts";
import { checkWriting } from "../../shard-node/store/write-check.ts";
import { boundedDisk } from "../support/bounded-disk.ts";
import { connectTo, createDatabase, openDatabase } from "../support/databases.ts";
import { eventually } from "../support/eventually.ts";
import { INTERNAL_TOKEN } from "../support/secrets.ts";
import { start } from "../support/run.ts";

const DISK_BYTES = 200 * 1024 ** 2;
/** For an outage to be seen, and its end: a check a second, on a machine that is busy. */
const SEEN_MAX_MS = 10_000;
/** How long a node is watched while nothing may change. */
const WATCHED_MS = 5_000;
const CHECKS = 100;
const LOG_PER_CHECK_MIN_BYTES = 50;
const LOG_PER_CHECK_MAX_BYTES = 1_000;

test("F12: a node whose disk is full is not ready, says so once, and is back soon after there is room", async ({
  skip,
}) => {
  const directory = mkdtempSync(join(tmpdir(), "onsale-disk-"));
  onTestFinished(() => rmSync(directory, { recursive: true }));
  chmodSync(directory, 0o755);
  using disk = boundedDisk(join(directory, "small"), DISK_BYTES);
  if (disk === undefined) return skip("SKIPPED: only root may mount a small disk");
  await using server = await startPostgresServer({
    dataDir: `${disk.directory}/data`,
    databases: ["shard"],
    durable: true,
  });
  await using node = await givenNode(server.url("shard"));
  expect(await node.writes()).toEqual([200, "1"]);

  const makeRoom = disk.fill();
  await eventually("it is seen", async () => (await node.writes())[1] === "0", SEEN_MAX_MS);
  const until = performance.now() + WATCHED_MS;
  while (performance.now() < until) expect(await node.writes()).toEqual([503, "0"]);
  expect(await node.readyz()).toContain("the shard's database takes no writes");

  makeRoom();
  await eventually("it is back", async () => (await node.writes())[1] === "1", SEEN_MAX_MS);
  expect((await node.writes())[0]).toBe(200);
  expect(await node.outages()).toEqual([
    expect.stringMatching(/^writing to the shard's database is away: .*No space left on device/),
    "writing to the shard's database is back: ",
  ]);
});

test("F12: a node whose database only reads is not ready until it takes writes", async () => {
  await using server = await startPostgresServer({ databases: ["shard"] });
  await using node = await givenNode(server.url("shard"));
  expect(await node.writes()).toEqual([200, "1"]);

  // Sessions that are open follow it, and are not asked again whether they may write.
  using admin = connectTo(server.url("shard?default_transaction_read_only=off"));
  const set = async (onOff: "on" | "off") => {
    await admin.run(`alter system set default_transaction_read_only = ${onOff}`);
    await admin.run("select pg_reload_conf()");
  };
  await set("on");
  await eventually("it is seen", async () => (await node.writes())[1] === "0", SEEN_MAX_MS);
  await set("off");
  await eventually("it is back", async () => (await node.writes())[1] === "1", SEEN_MAX_MS);
});

test("F12: a check writes to the disk and to the log, and little", async () => {
  await using server = await startPostgresServer({ databases: ["shard"] });
  await using database = openDatabase(server.url("shard"));
  using other = connectTo(server.url("shard"));
  const written = async () => {
    const position = "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8 as position";
    return (await other.run<{ position: number }>(position))[0]?.position ?? Number.NaN;
  };
  const bytes: number[] = [];
  for (let times = 0; times < CHECKS; times += 1) {
    const before = await written();
    await checkWriting(database);
    bytes.push((await written()) - before);
  }
  // Not the mean: now and then the server writes something of its own.
  const median = bytes.toSorted((a, b) => a - b)[CHECKS / 2];
  expect(median).toBeGreaterThan(LOG_PER_CHECK_MIN_BYTES);
  expect(median).toBeLessThan(LOG_PER_CHECK_MAX_BYTES);
});

/** A node as a process of its own, ready. */
async function givenNode(databaseUrl: string) {
  await using stack = new AsyncDisposableStack();
  const catalog = stack.use(await createDatabase("catalog"));
  await migrate(databaseUrl, "shard");
  await settleShards(catalog.url, [{ id: "solo" as ShardId, databaseUrl }]);
  const [port, adminPort] = [await getPort(), await getPort()];
  const program = stack.use(
    start("shard-node/main.ts", {
      INTERNAL_TOKEN,
      CATALOG_URL: catalog.url,
      SHARD_ID: "solo",
      DATABASE_URL: databaseUrl,
      PORT: String(port),
      ADMIN_PORT: String(adminPort),
    }),
  );
  const ask = async (path: string) => fetch(`http://127.0.0.1:${adminPort}${path}`);
  await eventually("it is ready", async () => (await ask("/readyz").catch(() => undefined))?.status === 200);
  const open = stack.move();
  return {
    /** What its health and its metric say. */
    async writes() {
      const metrics = await (await ask("/metrics")).text();
      return [(await ask("/readyz")).status, /^onsale_db_up (\d)$/m.exec(metrics)?.[1]];
    },
    readyz: async () => (await ask("/readyz")).text(),
    /** Ends it. What it logged of outages, each as its words and its reason. */
    async outages() {
      program.stop("SIGTERM");
      const { stdout } = await program.exited;
      return stdout
        .split("\n")
        .filter((line) => / is (away|back)"/.test(line))
        .map((line) => JSON.parse(line) as { msg: string; reason?: string })
        .map(({ msg, reason = "" }) => `${msg}: ${reason}`);
    },
    [Symbol.asyncDispose]: async () => open.disposeAsync(),
  };
}
