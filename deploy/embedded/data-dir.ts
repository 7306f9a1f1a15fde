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

/** The format of DATA_DIR. Databases of development versions with a lower number cannot be upgraded. */
const FORMAT = 1;

const stateSchema = z.object({
  format: z.literal(FORMAT).default(FORMAT),
  jwtSecret: z.string().default(newSecret),
  internalToken: z.string().default(newSecret),
  postgresPassword: z.string().default(newSecret),
  redisPassword: z.string().default(newSecret),
  amqpPassword: z.string().default(newSecret),
  /** Keyed by process, such as "shard-0 node". */
  ports: z.record(z.string(), z.number()).default({}),
  /** The name of the databases' directory, when that is outside DATA_DIR. */
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
    // Checked before any file in it is opened, so that a refusal changes nothing.
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

/** Writes JSON that only its owner may read. Readers see the old file or the new one, never half of one. */
export function writePrivately(file: string, content: unknown): void {
  const draft = `${file}.new`;
  rmSync(draft, { force: true }); // a draft that a crash left would keep its mode
  // Flush before the rename: otherwise a power cut could leave an empty file and lose the passwords.
  writeFileSync(draft, `${JSON.stringify(content, null, 2)}\n`, { mode: 0o600, flush: true });
  renameSync(draft, file);
}

function makeDirectory(path: string): void {
  makeWithParents(path);
  accessSync(path, constants.R_OK | constants.W_OK | constants.X_OK);
  // A first start takes an empty directory, as initdb does. The service user may pass through it to the databases, but
  // cannot list it or read its files (0600).
  if (readdirSync(path).length === 0) chmodSync(path, 0o711);
}

/** `mkdirSync` with `recursive: true` never returns below a directory such as /proc that allows no new ones. */
function makeWithParents(path: string): void {
  if (existsSync(path)) return;
  if (path !== dirname(path)) makeWithParents(dirname(path));
  mkdirSync(path);
  chmodSync(path, 0o711); // under a strict umask the service user could not pass
}

/**
 * An exclusive lock. The system drops it when the process ends, even by SIGKILL. A file with a pid would not do: pids are
 * used again, and two starts could both find it stale. SQLite's lock is a POSIX file lock, the only one that Node can take
 * without a dependency.
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
