/** Keeps the results in bench/results/, for machines (JSON) and for people (a page to open in a browser). */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pageOf } from "./page.ts";
import type { Results } from "./results.ts";

/** Returns the two files, named after the moment of the run. */
export function keepResults(results: Results): { json: string; page: string } {
  const directory = join(import.meta.dirname, "../results");
  mkdirSync(directory, { recursive: true });
  const name = join(directory, results.date.replaceAll(":", "-"));
  const files = { json: `${name}.json`, page: `${name}.html` };
  writeFileSync(files.json, `${JSON.stringify(results, null, 2)}\n`);
  writeFileSync(files.page, pageOf(results));
  return files;
}
