/** What comes from outside, and the list that reviewers go by. Needs no registry. */
import { globSync, readFileSync } from "node:fs";
import { resolve } from "node:path";
import { expect, test } from "vitest";

const root = resolve(import.meta.dirname, "../..");
const read = (file: string) => readFileSync(`${root}/${file}`, "utf8");

/** Licences under which a package may be used here; MPL-2.0 covers files that stay as they are. */
const LICENCES = [
  "MIT",
  "Apache-2.0",
  "ISC",
  "BSD-3-Clause",
  "BlueOak-1.0.0",
  "0BSD",
  "MPL-2.0",
  "Unlicense",
];
/** They name their licence in an older form (`licenses`), which the lock file leaves out: MIT, all three. */
const NAMED_OTHERWISE = ["buildcheck", "cpu-features", "ssh2"];

interface Locked {
  readonly integrity?: string;
  readonly license?: string;
  readonly resolved?: string;
}

test("H5: every package is pinned by its hash, names no registry, and has a licence of the list", () => {
  const { packages } = JSON.parse(read("package-lock.json")) as { packages: Record<string, Locked> };
  const locked = Object.entries(packages).filter(([path]) => path !== "");
  expect(locked.length).toBeGreaterThan(100);
  const objections = locked.flatMap(([path, { integrity, license, resolved }]) => [
    ...(integrity?.startsWith("sha512-") === true && resolved === undefined
      ? []
      : [`${path} is not pinned by its hash alone`]),
    ...(LICENCES.includes(license ?? "") || NAMED_OTHERWISE.includes(path.replace("node_modules/", ""))
      ? []
      : [`${path} has the licence ${license}`]),
  ]);
  expect(objections).toEqual([]);
});

test("H5: no install script runs, and every action is pinned to a commit", () => {
  expect(read(".npmrc")).toMatch(/^ignore-scripts=true$/m);
  const uses = globSync(".github/workflows/*", { cwd: root }).flatMap((file) =>
    [...read(file).matchAll(/uses: *(\S+)/g)].map((match) => match[1] ?? ""),
  );
  expect(uses.length).toBeGreaterThan(0);
  for (const action of uses) expect(action).toMatch(/@[0-9a-f]{40}$/);
});

test("H5: each item of the OWASP API Security Top 10 names tests, and they exist", () => {
  const rows = [...read("SECURITY.md").matchAll(/^\| API(\d+) .*\| (.*?) *\|$/gm)];
  expect(rows.map((row) => Number(row[1]))).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
  for (const [, item, cell = ""] of rows) {
    const named = [...cell.matchAll(/\]\((\S+?)\) `(\w+)`/g)];
    expect(named.length).toBeGreaterThan(0);
    for (const [, file = "", rule = ""] of named)
      expect([item, file, rule, new RegExp(`"([A-Z]\\d+ )*${rule}\\b.*?: `).test(read(file))]).toEqual([
        item,
        file,
        rule,
        true,
      ]);
  }
});
