/** The chart's files say what the code and docker-compose.yml say. What Helm makes of them: test/kubernetes/chart.test.ts. */
import { readFileSync, readlinkSync } from "node:fs";
import { resolve } from "node:path";
import { expect, test } from "vitest";
import { parse } from "yaml";
import { auditorConfig } from "../../audit/auditor/config.ts";
import { migrateConfig } from "../../migrations/config.ts";
import { routerConfig } from "../../router/config.ts";
import { readSideConfig } from "../../read-side/config.ts";
import { nodeConfig } from "../../shard-node/config.ts";

const root = resolve(import.meta.dirname, "../..");
const chart = `${root}/deploy/kubernetes/onsale`;
const read = (file: string): string => readFileSync(`${chart}/${file}`, "utf8");

/** One value only, or the port's own default, which the chart's Services name. */
const LEFT_OUT = [
  "ADMIN_HOST",
  "PORT",
  "ADMIN_PORT",
  "OTEL_EXPORTER_OTLP_PROTOCOL",
  "OTEL_TRACES_SAMPLER",
  "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
];

const { definitions, properties } = JSON.parse(read("values.schema.json")) as {
  definitions: { nodes: { properties: Settings } };
  properties: { routers: { properties: Settings }; readSide: { properties: Settings } };
};
interface Settings {
  settings: { propertyNames: { enum: string[] } };
}

test.for<[string, string[], string[]]>([
  ["router", Object.keys(routerConfig.shape), properties.routers.properties.settings.propertyNames.enum],
  ["node", Object.keys(nodeConfig.shape), definitions.nodes.properties.settings.propertyNames.enum],
  ["readside", Object.keys(readSideConfig.shape), properties.readSide.properties.settings.propertyNames.enum],
  ["auditor", Object.keys(auditorConfig.shape), []],
  ["migrate", Object.keys(migrateConfig.shape), []],
])("K1: the values of a %s name every setting that the chart does not make", ([role, all, named]) => {
  const template = role === "router" || role === "node" ? `${role}s.yaml` : `${role}.yaml`;
  // Routers and nodes share the helper's, and the read side the end of it.
  const shared = { router: "roleEnv", node: "roleEnv", readside: "anyRoleEnv" }[role];
  const helper = shared === undefined ? "" : read("templates/_helpers.tpl");
  const text = read(`templates/${template}`) + helper.slice(helper.indexOf(`define "onsale.${shared}"`));
  const made = [...text.matchAll(/name: ([A-Z][A-Z_]+)\b/g)].map(([, name]) => name ?? "");
  expect(named.filter((name) => !all.includes(name) || made.includes(name))).toEqual([]);
  expect(
    all.filter((name) => !named.includes(name) && !made.includes(name) && !LEFT_OUT.includes(name)),
  ).toEqual([]);
});

test("K1: the chart has the project's version", () => {
  const { version } = JSON.parse(readFileSync(`${root}/package.json`, "utf8")) as { version: string };
  expect(parse(read("Chart.yaml"))).toMatchObject({ version, appVersion: version });
});

test("K3: the table of docs/kubernetes.md is the one that the policies are made of", () => {
  const flows = parse(read("files/flows.yaml")) as {
    from: string;
    to: string;
    ports: number[];
    only?: string;
  }[];
  const rows = readFileSync(`${root}/docs/kubernetes.md`, "utf8").matchAll(
    /^\| `(\w+)` +\| `(\w+)` +\| ([\d, ]+?) +\| (?:`(\w+)`)? +\|$/gm,
  );
  expect([...rows].map((row) => row.slice(1, 5))).toEqual(
    flows.map(({ from, to, ports, only }) => [from, to, ports.join(", "), only]),
  );
});

test("K4: rules and dashboards of the chart are the files of compose", () => {
  expect(readlinkSync(`${chart}/files/rules`)).toBe("../../../prometheus/rules");
  expect(readlinkSync(`${chart}/files/dashboards`)).toBe("../../../grafana/dashboards");
});
