/** `npm start` works for root and for everybody else, also where PostgreSQL's own user cannot look. */
import { execFileSync } from "node:child_process";
import { chmodSync, existsSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { CHECKOUT, NpmStart, PATIENCE_MS, removeDataDir, temporaryDirectory } from "./npm-start.ts";

const onlyRoot = process.getuid?.() === 0;
const timeout = 3 * PATIENCE_MS;
const NOBODY = { uid: 65_534, gid: 65_534 };
const PARTS = [
  "deploy",
  "migrations",
  "read-side",
  "router",
  "shard-node",
  "shared",
  "node_modules",
  "package.json",
];

/** A checkout of its own, because the one under test must not change its modes. */
let checkout = "";
beforeAll(() => {
  if (!onlyRoot) return;
  checkout = mkdtempSync(join(tmpdir(), "onsale-checkout-")); // mode 0700, as /root has
  execFileSync("cp", ["-a", ...PARTS.map((part) => join(CHECKOUT, part)), checkout]);
}, timeout);
afterAll(() => {
  if (checkout !== "") rmSync(checkout, { recursive: true, force: true });
}, timeout);

test.skipIf(!onlyRoot)(
  "E6: root, in a directory that nobody else can enter (needs root)",
  { timeout },
  async () => {
    const dataDir = join(checkout, ".onsale");
    {
      await using start = new NpmStart({ checkout, dataDir, env: { SHARDS: "1" } });
      const { shards } = await start.ready();
      expect(ownerOf(shards[0]?.postgresPid ?? 0)).not.toBe(0);
    }
    removeDataDir(dataDir);
    expect(existsSync(dataDir)).toBe(false);
  },
);

test.skipIf(!onlyRoot)("E6: an ordinary user (needs root to become one)", { timeout }, async () => {
  chmodSync(checkout, 0o755);
  execFileSync("chmod", ["-R", "go+rX", checkout]); // the umask of npm ci may have been strict
  using home = temporaryDirectory(NOBODY);
  await using start = new NpmStart({
    checkout,
    dataDir: join(home.path, "data"),
    user: NOBODY,
    env: { SHARDS: "1", HOME: home.path },
  });

  const { shards, router } = await start.ready();

  expect(ownerOf(shards[0]?.postgresPid ?? 0)).toBe(NOBODY.uid);
  expect(ownerOf(router.pid)).toBe(NOBODY.uid);
});

const ownerOf = (pid: number) => statSync(`/proc/${pid}`).uid;
