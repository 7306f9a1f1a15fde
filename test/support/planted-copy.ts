/** A copy of the sources in which a bug is planted; it shares the installed packages. */
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { expect } from "vitest";

const ROOT = resolve(import.meta.dirname, "../..");
const FOLDERS = ["audit", "deploy", "migrations", "read-side", "router", "shard-node", "shared"];
const TESTS = ["cluster", "components", "simulation", "support", "unit"].map((folder) => `test/${folder}`);
const SOURCES = [...FOLDERS, ...TESTS, "bench/random.ts", ".oxlintrc.json", "package.json", "tsconfig.json"];

/** `find` must stand in its file exactly once: when the code has moved on, the plant fails instead of proving nothing. */
export interface Planting {
  readonly file: string;
  readonly find: string;
  readonly replace: string;
}

export function copySources() {
  const directory = mkdtempSync(join(tmpdir(), "onsale-planted-"));
  for (const source of SOURCES) cpSync(join(ROOT, source), join(directory, source), { recursive: true });
  symlinkSync(join(ROOT, "node_modules"), join(directory, "node_modules"));
  return {
    directory,
    plant({ file, find, replace }: Planting) {
      const path = join(directory, file);
      const parts = readFileSync(path, "utf8").split(find);
      expect([file, find, "occurs", parts.length - 1]).toEqual([file, find, "occurs", 1]);
      writeFileSync(path, parts.join(replace));
    },
    /** Puts back what was planted in the file. */
    restore: ({ file }: Planting) => cpSync(join(ROOT, file), join(directory, file)),
    [Symbol.dispose]: () => rmSync(directory, { recursive: true, force: true }),
  };
}
