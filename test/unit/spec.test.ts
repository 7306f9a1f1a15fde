import { globSync, readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { PROBLEMS } from "../../router/http/problems.ts";

const RULE = /^[A-Z]\d+$/;
const root = `${import.meta.dirname}/../..`;
const read = (file: string) => readFileSync(`${root}/${file}`, "utf8");

/** Every test's name, as it stands in the source. */
function testNames(): { file: string; name: string }[] {
  const files = globSync("**/*.test.ts", { cwd: root, exclude: ["node_modules/**"] });
  return files.flatMap((file) =>
    [
      ...read(file).matchAll(
        /^\s*test(?:\.(?:skipIf|for|each)\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\))?\(\s*(["'`])(.*?)\1/gms,
      ),
    ].map((match) => ({
      file,
      name: match[2] ?? "",
    })),
  );
}

const rules = [...read("SPEC.md").matchAll(/^\| ([A-Z]\d+) +\|/gm)].map((match) => match[1] ?? "");

test("H2: every test names the rules that it proves, and they exist", () => {
  const names = testNames();
  expect(names.length).toBeGreaterThan(50);
  for (const { file, name } of names) {
    const [ids = ""] = name.split(":");
    expect([file, name, ids.split(" ").every((id) => RULE.test(id) && rules.includes(id))]).toEqual([
      file,
      name,
      true,
    ]);
  }
});

test("H2: every rule has a test", () => {
  const proved = new Set(testNames().flatMap(({ name }) => (name.split(":")[0] ?? "").split(" ")));
  expect(rules.filter((rule) => !proved.has(rule))).toEqual([]);
  expect(new Set(rules).size).toBe(rules.length);
});

test("H2: the catalogue of errors and its page name the same codes", () => {
  const documented = [...read("docs/errors.md").matchAll(/^## `(\w+)`$/gm)].map((match) => match[1] ?? "");
  expect(documented.toSorted()).toEqual(Object.keys(PROBLEMS).toSorted());
  for (const [code, { status, retry }] of Object.entries(PROBLEMS)) {
    const said = new RegExp(`^## \`${code}\`\n\n\\*\\*(\\d+)\\*\\*, (never|later|same key)`, "m").exec(
      read("docs/errors.md"),
    );
    expect([code, said?.[1], said?.[2]]).toEqual([code, String(status), retry.replace("-", " ")]);
  }
});
