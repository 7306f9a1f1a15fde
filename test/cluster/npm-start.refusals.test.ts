/** A start that cannot succeed says why on one line, exits with 1, and leaves nothing running. */
import { createServer } from "node:net";
import { join } from "node:path";
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { listen } from "../support/listen.ts";
import { isAlive, NpmStart, PATIENCE_MS, type StartOptions, temporaryDirectory, until } from "./npm-start.ts";

const timeout = 3 * PATIENCE_MS;

test("E4: nonsense settings are refused, all at once", { timeout }, async () => {
  const line = await refusal({
    env: { PORT: "eighty", SHARDS: "17", AUTH_JWT_SECRET: "short", LOG_LEVEL: "loud" },
  });

  for (const name of ["PORT", "SHARDS", "AUTH_JWT_SECRET", "LOG_LEVEL"])
    expect(line).toContain(`${name}: must be`);
});

test("E4: a HOST that is not this machine is refused", { timeout }, async () => {
  expect(await refusal({ env: { HOST: "192.0.2.1" } })).toContain("HOST 192.0.2.1");
});

test.for(["PORT", "ADMIN_PORT"])("E4: a %s in use is refused by name", { timeout }, async (name) => {
  await using squatter = await listen(createServer());
  const port = String(squatter.port);

  expect(await refusal({ env: { [name]: port } })).toContain(`${name} ${port} on 127.0.0.1 is in use`);
});

test("E4: a DATA_DIR that cannot be written is refused", { timeout }, async () => {
  using directory = temporaryDirectory();
  const file = join(directory.path, "file");
  writeFileSync(file, "");

  for (const dataDir of [file, join(file, "below"), "/proc/onsale", "/sys"]) {
    expect(await refusal({ dataDir })).toContain(`DATA_DIR ${dataDir}`);
  }
});

test.for([
  ["an earlier development version", {}],
  ["another version", { format: 99 }],
] as const)(
  "G2: a DATA_DIR of %s is refused with what to do, and nothing in it is touched",
  { timeout },
  async ([maker, format]) => {
    using directory = temporaryDirectory();
    mkdirSync(join(directory.path, "databases", "shard-0"), { recursive: true });
    const state = { ...format, postgresPassword: "of before", ports: { "shard-0 postgres": 5432 } };
    writeFileSync(join(directory.path, "state.json"), JSON.stringify(state));
    writeFileSync(join(directory.path, "databases", "shard-0", "PG_VERSION"), "18\n");
    const before = contentOf(directory.path);

    const line = await refusal({ dataDir: directory.path });

    expect(line).toBe(
      `onsale: DATA_DIR ${directory.path} was made by ${maker}, whose data this one cannot use; ` +
        "keep it with that version, or give a new DATA_DIR\n",
    );
    expect(contentOf(directory.path)).toEqual(before);
  },
);

test(
  "E4: fewer shards than there are data of are refused, for their events would be gone",
  { timeout },
  async () => {
    await using start = new NpmStart({ env: { SHARDS: "2" } });
    await start.ready();
    await start.stop();

    expect(await refusal({ dataDir: start.dataDir, env: { SHARDS: "1" } })).toContain("holds 2 shards");
  },
);

test(
  "E5: one DATA_DIR has one npm start; what a killed one leaves is ended by the next",
  { timeout },
  async () => {
    await using first = new NpmStart({ env: { SHARDS: "1" } });
    await first.ready();
    expect(await refusal({ dataDir: first.dataDir, env: { SHARDS: "1" } })).toContain(
      "in use by another npm start",
    );

    const left = first.pids();
    first.signal("SIGKILL");
    await first.ended();
    expect(isAlive(left["shard-0 postgres"] ?? 0)).toBe(true); // or this test would prove nothing

    await using second = new NpmStart({ dataDir: first.dataDir, env: { SHARDS: "1" } });
    await second.ready();
    await until("the old ones have ended", () => !Object.values(left).some(isAlive));
    expect(Object.values(second.pids()).every(isAlive)).toBe(true);
  },
);

/** Every file and directory, with when it was changed and what is in it. */
function contentOf(path: string) {
  return readdirSync(path, { recursive: true, withFileTypes: true })
    .map((entry) => {
      const file = join(entry.parentPath, entry.name);
      return [file, statSync(file).mtimeMs, entry.isFile() && readFileSync(file, "utf8")] as const;
    })
    .toSorted(([a], [b]) => a.localeCompare(b));
}

/** Starts what must be refused; resolves to the one line that it says. */
async function refusal(options: StartOptions): Promise<string> {
  await using start = new NpmStart(options);
  const code = await start.ended();
  expect({ code, lines: start.stderr.trimEnd().split("\n").length, stdout: start.stdout }).toEqual({
    code: 1,
    lines: 1,
    stdout: "",
  });
  return start.stderr;
}
