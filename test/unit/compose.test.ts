/** docker-compose.yml hands on what routers, nodes, the read side and .env know. */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { expect, test } from "vitest";
import { parse } from "yaml";
import { auditorConfig } from "../../audit/auditor/config.ts";
import { readSideConfig } from "../../read-side/config.ts";
import { routerConfig } from "../../router/config.ts";
import { nodeConfig } from "../../shard-node/config.ts";

const root = resolve(import.meta.dirname, "../..");
const read = (file: string): string => readFileSync(`${root}/${file}`, "utf8");
const file = read("docker-compose.yml");
const { services } = parse(file, { merge: true, maxAliasCount: -1 }) as {
  services: Record<string, { environment?: Record<string, string> }>;
};

/** Settings that make no sense in a container: its admin port is on no other network, and a protocol has one value only. */
const LEFT_OUT = ["ADMIN_HOST", "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_TRACES_SAMPLER"];

test.for([
  ["router-1", Object.keys(routerConfig.shape)],
  ["read-side", Object.keys(readSideConfig.shape)],
  ["node-a", Object.keys(nodeConfig.shape)],
  ["auditor", Object.keys(auditorConfig.shape)],
] as const)("D9: every setting of %s is handed on or set", ([service, settings]) => {
  const given = Object.keys(services[service]?.environment ?? {});
  expect(settings.filter((name) => !given.includes(name) && !LEFT_OUT.includes(name))).toEqual([]);
  // Nothing is handed to somebody who does not read it.
  expect(given.filter((name) => !settings.includes(name))).toEqual(["ONSALE_ENV"]);
});

test("D9: .env.example has every setting that docker-compose.yml reads, and no other", () => {
  // The image of k6 is for its tests.
  const asked = new Set(
    [...file.matchAll(/\$\{(\w+)/g)].map(([, name]) => name).filter((name) => name !== "K6_IMAGE"),
  );
  const secrets = file.matchAll(/\{ environment: (\w+) \}/g);
  for (const [, name] of secrets) asked.add(name);
  const offered = [...read(".env.example").matchAll(/^#?([A-Z][A-Z0-9_]+)=/gm)].map(([, name]) => name);
  expect(new Set(offered)).toEqual(asked);
});

test("D2: settings and what starts a server refuse the same passwords", () => {
  const passwords = {
    POSTGRES_PASSWORD: "two words",
    ONSALE_PASSWORD: "schlüssel",
    REPLICATION_PASSWORD: "example-only-replication-password",
    MONITOR_PASSWORD: "",
    READ_SIDE_PASSWORD: "p@ss",
    REDIS_PASSWORD: "Good-1._~",
  };
  const names = Object.keys(passwords);
  const refusedBy = (program: string, ...args: string[]): string[] => {
    const env = { PATH: process.env["PATH"], ...passwords };
    const { stderr } = spawnSync(program, args, { cwd: root, env, encoding: "utf8" });
    return names.filter((name) => stderr.includes(name));
  };
  const refused = names.filter((name) => name !== "REDIS_PASSWORD");
  expect(refusedBy("deploy/check-passwords.sh", ...names, "--", "true")).toEqual(refused);
  expect(refusedBy(process.execPath, "deploy/settings.ts")).toEqual(refused);
});
