/**
 * DATA_DIR: what the cluster keeps between starts. One `npm start` at a time holds it. The databases may lie elsewhere
 * (databases-dir.ts says when), but what is needed to find them is here, so deleting DATA_DIR means a fresh cluster.
 */
import { randomBytes } from "node:crypto";
import {
  accessSync,
  chmodSync,
  constants,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { z } from "zod";
import { reasonOf, StartError } from "./start-error.ts";

const newSecret = () => randomBytes(32).toString("base64url");

/** Of what DATA_DIR holds. Databases of development versions before this number cannot be upgraded. */
const FORMAT = 1;

const stateSchema = z.object({
  format: z.literal(FORMAT).default(FORMAT),
  jwtSecret: z.string().default(newSecret),
  internalToken: z.string().default(newSecret),
  postgresPassword: z.string().default(newSecret),
  redisPassword: z.string().default(newSecret),
  /** By process, such as "shard-0 node". */
  ports: z.record(z.string(), z.number()).default({}),
  /** Set when the databases are outside DATA_DIR: their directory's name there. */
  databasesId: z.string().optional(),
  demoEventId: z.string().optional(),
});
export type ClusterState = z.infer<typeof stateSchema>;

export interface DataDir extends Disposable {
  readonly path: string;
  readonly state: ClusterState;
  /** Call it after a change of `state`. */
  saveState(): void;
}

/** Opens or makes DATA_DIR and takes its lock. Throws StartError when it is unusable or in use. */
export function openDataDir(path: string): DataDir {
  const stateFile = join(path, "state.json");
  let lock: DatabaseSync | undefined;
  try {
    if (existsSync(path) && !existsSync(stateFile) && readdirSync(path).some((name) => name !== "lock"))
      throw new StartError(`DATA_DIR ${path} has other files in it; give an empty or a new directory`);
    // Before anything of it is opened, so that nothing in it is touched.
    if (existsSync(stateFile)) refuseOtherFormat(path, stateFile);
    makeDirectory(path);
    lock = takeLock(join(path, "lock"));
    if (lock === undefined)
      throw new StartError(`DATA_DIR ${path} is in use by another npm start; stop that first`);
    const state = readState(stateFile);
    const saveState = () => writePrivately(stateFile, state);
    saveState();
    const held = lock;
    return { path, state, saveState, [Symbol.dispose]: () => held.close() };
  } catch (error) {
    lock?.close();
    if (error instanceof StartError) throw error;
    throw new StartError(`DATA_DIR ${path} cannot be used: ${reasonOf(error)}`);
  }
}

function refuseOtherFormat(path: string, stateFile: string): void {
  const { format } = parsed(stateFile, z.looseObject({ format: z.unknown() }).partial());
  if (format === FORMAT) return;
  const maker = format === undefined ? "an earlier development version" : "another version";
  throw new StartError(
    `DATA_DIR ${path} was made by ${maker}, whose data this one cannot use; keep it with that version, or give a new DATA_DIR`,
  );
}

function readState(file: string): ClusterState {
  return existsSync(file) ? parsed(file, stateSchema) : stateSchema.parse({});
}

function parsed<Schema extends z.ZodType>(file: string, schema: Schema): z.infer<Schema> {
  try {
    return schema.parse(JSON.parse(readFileSync(file, "utf8")));
  } catch (error) {
    throw new StartError(
      `${file} is damaged (${reasonOf(error)}); bring it back from a copy, it holds the passwords`,
    );
  }
}

/** Writes JSON that only its owner may read; readers see the old file or the new one, never half of it. */
export function writePrivately(file: string, content: unknown): void {
  const draft = `${file}.new`;
  rmSync(draft, { force: true }); // left by a crash, it would keep its mode
  // Flushed before it is renamed: after a power cut, an empty file with the new name would have lost the passwords.
  writeFileSync(draft, `${JSON.stringify(content, null, 2)}\n`, { mode: 0o600, flush: true });
  renameSync(draft, file);
}

function makeDirectory(path: string): void {
  makeWithParents(path);
  accessSync(path, constants.R_OK | constants.W_OK | constants.X_OK);
  // Like initdb, a first start takes over a directory that is empty. The service user must be able to pass through to
  // the databases; it can list and read nothing, every file here is 0600.
  if (readdirSync(path).length === 0) chmodSync(path, 0o711);
}

/** `recursive: true` would do, but it tries for ever below a directory such as /proc that takes no new ones. */
function makeWithParents(path: string): void {
  if (existsSync(path)) return;
  if (path !== dirname(path)) makeWithParents(dirname(path));
  mkdirSync(path);
  chmodSync(path, 0o711); // under a strict umask the service user could not pass
}

/**
 * An exclusive lock that the system drops when its holder ends, however it ends. A file with a pid in it would need
 * guesses about pids that were used again, and two starts could both find it stale. SQLite's lock is a plain POSIX file
 * lock, and the only one that Node can take without a dependency.
 */
function takeLock(file: string): DatabaseSync | undefined {
  const database = new DatabaseSync(file);
  try {
    database.exec("begin exclusive");
    return database;
  } catch (error) {
    database.close();
    if (error instanceof Error && error.message === "database is locked") return undefined;
    throw error;
  }
}
