import { spawnSync } from "node:child_process";
import { existsSync, globSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, relative, resolve } from "node:path";
import { expect, test } from "vitest";
import { copySources } from "../support/planted-copy.ts";

const root = resolve(import.meta.dirname, "../..");
const sources = globSync("**/*.ts", { cwd: root, exclude: ["node_modules/**", ".onsale/**"] });
const isTest = (file: string) => file.startsWith("test/") || file.endsWith(".test.ts");

/** What each file imports: files of the project by their path, libraries by their name. */
const imports = sources.flatMap((file) => {
  const text = readFileSync(`${root}/${file}`, "utf8");
  // A library of which only files are read is resolved.
  const found = text.matchAll(/(?:from|import|resolve)\s*\(?\s*["`]([^"`$]+?)\/?["`$]/g);
  const targets = [...found].map((match) => match[1] ?? "");
  return targets.map((target) => ({
    file,
    target: target.startsWith(".") ? relative(root, resolve(root, dirname(file), target)) : target,
  }));
});
const folderOf = (path: string) => path.split("/")[0] ?? "";

/** Each outside library and the only product files that may import it. */
const DOORS: Readonly<Record<string, readonly string[]>> = {
  "@hono/node-server": ["shared/process/http-server.ts"],
  hono: ["router/http/routes.ts", "shared/watch/admin-server.ts", "shared/wire/rpc-server.ts"],
  "@hono/zod-openapi": [
    "router/http/app.ts",
    "router/http/documentation.ts",
    "router/http/route-spec.ts",
    "router/http/routes.ts",
    "router/http/schemas.ts",
  ],
  postgres: ["shared/database/connection.ts"],
  ioredis: ["shared/redis/redis.ts"],
  "rate-limiter-flexible": ["router/callers/write-limits.ts"],
  amqplib: ["shared/queue/broker.ts"],
  jose: ["router/callers/tokens.ts"],
  pino: ["shared/process/log.ts"],
  "prom-client": ["shared/watch/metrics.ts"],
  "@opentelemetry/api": ["shared/watch/opentelemetry.ts"],
  "@opentelemetry/core": ["shared/watch/opentelemetry.ts"],
  "@opentelemetry/exporter-trace-otlp-http": ["shared/watch/opentelemetry.ts"],
  "@opentelemetry/resources": ["shared/watch/opentelemetry.ts"],
  "@opentelemetry/sdk-trace": ["shared/watch/opentelemetry.ts"],
  murmurhash: ["shared/domain/slots.ts"],
  // The embedded cluster looks after its processes from outside, as any client would. Calls inside the cluster and those to
  // strangers have nothing in common: breaker and version here, the judged address there.
  undici: [
    "deploy/embedded/guide.ts",
    "deploy/embedded/roles.ts",
    "shard-node/webhooks/sender.ts",
    "shared/wire/node-client.ts",
  ],
  standardwebhooks: ["shard-node/webhooks/sender.ts"],
  "ipaddr.js": ["shard-node/webhooks/targets.ts"],
  ...Object.fromEntries(
    ["cog", "common", "dashboard", "prometheus", "stat", "table", "timeseries"].map((part) => [
      `@grafana/grafana-foundation-sdk/${part}`,
      ["deploy/grafana/panels.ts"],
    ]),
  ),
  cockatiel: ["shared/wire/node-client.ts"],
  "swagger-ui-dist": ["router/http/documentation.ts"],
  "lru-cache": [
    "router/cache/event-cache.ts",
    "router/cache/page-cache.ts",
    "router/callers/tokens.ts",
    "shard-node/decide/event-changes.ts",
  ],
};

test("H1: each outside library has one door", () => {
  for (const [library, doors] of Object.entries(DOORS)) {
    const importers = imports
      .filter(({ file, target }) => !isTest(file) && folderOf(file) !== "bench" && target === library)
      .map(({ file }) => file);
    expect([library, [...new Set(importers)].toSorted()]).toEqual([library, doors.toSorted()]);
  }
});

test("H1: the linter objects to an import that goes up, and to a circle of types", () => {
  using copy = copySources();
  const { directory } = copy;
  writeFileSync(`${directory}/shared/domain/up.ts`, 'export { RPC } from "../wire/rpc.ts";\n');
  const half = (other: string) =>
    `import type { A } from "./${other}.ts";\nexport type B = A;\nexport type { B as A };\n`;
  writeFileSync(`${directory}/shared/domain/one.ts`, half("two"));
  writeFileSync(`${directory}/shared/domain/two.ts`, half("one"));

  const flags = ["--format=unix", "shared/domain"];
  const { stdout, status } = spawnSync(`${root}/node_modules/.bin/oxlint`, flags, {
    cwd: directory,
    encoding: "utf8",
  });

  expect(status).toBe(1);
  expect(stdout).toContain("shared/domain/one.ts:1:24: Dependency cycle detected");
  expect(stdout).toContain("shared/domain/up.ts:1:1: '../wire/rpc.ts' import is restricted");
  expect(stdout).toContain("3 problems");
});

test("H1: a router knows no SQL and no database", () => {
  const reachable = new Set<string>();
  const visit = (file: string): void => {
    if (reachable.has(file)) return;
    reachable.add(file);
    for (const { target } of imports.filter((entry) => entry.file === file)) visit(target);
  };
  visit("router/main.ts");
  expect([...reachable]).toContain("router/router.ts");
  expect(
    [...reachable].filter((file) =>
      ["postgres", "pg", "shared/database/connection.ts", "shared/database/database.ts"].includes(file),
    ),
  ).toEqual([]);
});

test("H1: settings are read in the files that start a process, and nowhere else", () => {
  const readers = sources.filter(
    (file) =>
      !isTest(file) &&
      folderOf(file) !== "bench" &&
      /process\.env\b/.test(readFileSync(`${root}/${file}`, "utf8").replace(/\/\*[\s\S]*?\*\//g, "")),
  );
  for (const file of readers)
    expect([file, /(^|\/)(main|settings|token|move-slot|after-restore)\.ts$/.test(file)]).toEqual([
      file,
      true,
    ]);
});

test("H2: every link between the documents leads to a file, and to a heading of it", () => {
  const documents = globSync("**/*.md", { cwd: root, exclude: ["node_modules/**", ".onsale/**"] });
  const headingsOf = (file: string) =>
    [
      ...readFileSync(file, "utf8")
        .replace(/^```[\s\S]*?^```/gm, "")
        .matchAll(/^#+ +(.+)$/gm),
    ].map((match) =>
      (match[1] ?? "")
        .toLowerCase()
        .replace(/[^\p{L}\p{N} _-]/gu, "")
        .replaceAll(" ", "-"),
    );
  const broken: string[] = [];
  let anchors = 0;
  for (const document of documents) {
    const text = readFileSync(`${root}/${document}`, "utf8");
    for (const [, target = ""] of text.matchAll(/\]\((?!\w+:)([^)\s]+)\)/g)) {
      const [path = "", anchor] = target.split("#");
      const file = path === "" ? `${root}/${document}` : resolve(root, dirname(document), path);
      if (anchor !== undefined) anchors += 1;
      if (!existsSync(file) || (anchor !== undefined && !headingsOf(file).includes(anchor)))
        broken.push(`${document}: ${target}`);
    }
  }
  expect(broken).toEqual([]);
  expect(anchors).toBeGreaterThan(20);
});
