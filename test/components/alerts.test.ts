/** The rules of deploy/prometheus: checked and tried out by promtool, each with a case, a counter-case and a runbook. */
import { globSync, readFileSync } from "node:fs";
import { resolve } from "node:path";
import { expect, test, type TestContext } from "vitest";
import { parse } from "yaml";
import { z } from "zod";
import { findPromtool, type Promtool, runPromtool } from "../support/prometheus.ts";

const root = resolve(import.meta.dirname, "../..");
const directory = `${root}/deploy/prometheus`;
const read = (file: string): string => readFileSync(`${directory}/${file}`, "utf8");

const rulesSchema = z.object({
  groups: z.array(
    z.object({
      rules: z.array(
        z.union([
          z.object({ record: z.string(), expr: z.string() }),
          z.object({
            alert: z.string(),
            expr: z.string(),
            for: z.string().optional(),
            labels: z.strictObject({ severity: z.enum(["page", "ticket"]) }),
            annotations: z.strictObject({ summary: z.string(), runbook_url: z.string() }),
          }),
        ]),
      ),
    }),
  ),
});
const casesSchema = z.object({
  tests: z.array(
    z.object({
      alert_rule_test: z.array(z.object({ alertname: z.string(), exp_alerts: z.array(z.unknown()) })),
    }),
  ),
});

const alerts = globSync("rules/*.yml", { cwd: directory })
  .flatMap((file) => rulesSchema.parse(parse(read(file))).groups)
  .flatMap(({ rules }) => rules)
  .filter((rule) => "alert" in rule);
const testFiles = globSync("tests/*.yml", { cwd: directory }).map((file) => `${directory}/${file}`);

const promtool = findPromtool(directory);

function promtoolOrSkip({ skip }: TestContext): Exclude<Promtool, { obstacle: string }> {
  if ("obstacle" in promtool) return skip(`SKIPPED: ${promtool.obstacle}`);
  return promtool;
}

test("W1: promtool accepts the configuration and its rules", async (context) => {
  const { code, said } = await runPromtool(
    promtoolOrSkip(context),
    "check",
    "config",
    `${directory}/prometheus.yml`,
  );
  expect([code, said]).toEqual([0, expect.stringContaining("SUCCESS")]);
});

test(
  "W1: every alert fires when it should, and is silent when it should be",
  { timeout: 180_000 },
  async (context) => {
    const tool = promtoolOrSkip(context);
    for (const file of testFiles) {
      const { code, said } = await runPromtool(tool, "test", "rules", file);
      expect([file, code, said]).toEqual([file, 0, expect.stringContaining("SUCCESS")]);
    }
  },
);

test("W1: every alert has a case in which it fires and one in which it stays silent", () => {
  const cases = testFiles.flatMap((file) =>
    casesSchema.parse(parse(readFileSync(file, "utf8"))).tests.flatMap((each) => each.alert_rule_test),
  );
  const covered = alerts.map(({ alert }) => ({
    alert,
    fires: cases.some((each) => each.alertname === alert && each.exp_alerts.length > 0),
    silent: cases.some((each) => each.alertname === alert && each.exp_alerts.length === 0),
  }));
  expect(covered.length).toBeGreaterThan(15);
  expect(covered.filter(({ fires, silent }) => !fires || !silent)).toEqual([]);
  const known = new Set(alerts.map(({ alert }) => alert));
  expect(cases.filter(({ alertname }) => !known.has(alertname))).toEqual([]);
});

test("W1: every alert has its section in the runbook, and every section its alert", () => {
  const operations = readFileSync(`${root}/docs/operations.md`, "utf8");
  const [, section = ""] = operations.split("\n## Alerts\n");
  const [own = ""] = section.split("\n## ");
  const headings = [...own.matchAll(/^### (\w+)$/gm)].map((match) => match[1] ?? "");
  expect(headings.toSorted()).toEqual(alerts.map(({ alert }) => alert).toSorted());
  for (const { alert, annotations } of alerts)
    expect(annotations.runbook_url).toBe(`{{ $externalLabels.runbook }}#${alert.toLowerCase()}`);
  expect(parse(read("prometheus.yml"))).toMatchObject({
    global: { external_labels: { runbook: "docs/operations.md" } },
  });
});
