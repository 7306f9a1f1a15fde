/** The files of Grafana are what their code makes, and what they and the rules ask for exists. */
import { globSync, readFileSync } from "node:fs";
import { resolve } from "node:path";
import { expect, test } from "vitest";
import { parse } from "yaml";
import { DASHBOARDS, fileOf } from "../../deploy/grafana/dashboards.ts";

const root = resolve(import.meta.dirname, "../..");
const read = (file: string): string => readFileSync(`${root}/${file}`, "utf8");

test("W2: the dashboards that Grafana reads are those that the code makes; npm run dashboards writes them", () => {
  const files = globSync("deploy/grafana/dashboards/*", { cwd: root });
  expect(files.toSorted()).toEqual(
    DASHBOARDS.map((each) => `deploy/grafana/dashboards/${each.uid}.json`).toSorted(),
  );
  for (const { name, text } of DASHBOARDS.map(fileOf))
    expect([name, read(`deploy/grafana/dashboards/${name}`) === text]).toEqual([name, true]);
});

test("W2: every metric of ours that a rule or a dashboard asks for is one that the code has", () => {
  const names = (text: string) => new Set(text.match(/(?<!=")\bonsale_[a-z_]+\b/g));
  const code = globSync(["{shared,router,shard-node,read-side,audit}/**/*.ts", "deploy/backup/*.sh"], {
    cwd: root,
  });
  const defined = new Set(
    code.flatMap((file) =>
      [...read(file).matchAll(/(?:"|metric )(onsale_[a-z_]+)\b/g)].map((match) => match[1] ?? ""),
    ),
  );
  const rules = globSync("deploy/prometheus/**/*.yml", { cwd: root }).map(read).join("\n");
  const boards = globSync("deploy/grafana/dashboards/*.json", { cwd: root }).map(read).join("\n");
  for (const asked of [names(rules), names(boards)]) {
    expect(asked.size).toBeGreaterThan(5);
    const unknown = [...asked].filter((name) => !defined.has(name.replace(/_(bucket|sum|count)$/, "")));
    expect(unknown.filter((name) => !defined.has(name))).toEqual([]);
  }
  const recorded = new Set(rules.match(/(?<=record: )\S+/g));
  for (const name of boards.match(/\bonsale:[a-z0-9_:]+/g) ?? [])
    expect([name, recorded.has(name)]).toEqual([name, true]);
});

test("W2: Grafana's datasources are those that the dashboards name", () => {
  const { datasources } = parse(read("deploy/grafana/provisioning/datasources/datasources.yml")) as {
    datasources: { uid: string; type: string }[];
  };
  const shards = datasources.filter(({ uid }) => uid.startsWith("shard-"));
  expect(datasources.map(({ uid, type }) => `${uid}: ${type}`)).toContain("prometheus: prometheus");
  expect(shards.length).toBeGreaterThan(0);
  expect(new Set(shards.map(({ type }) => type))).toEqual(new Set(["grafana-postgresql-datasource"]));
});
