/**
 * Chooses where the databases lie: in DATA_DIR, or in /var/lib/onsale when root runs the cluster and the service user
 * cannot reach DATA_DIR (a checkout below /root, say). DATA_DIR keeps the random name of that directory.
 */
import { randomUUID } from "node:crypto";
import { chmodSync, chownSync, existsSync, mkdirSync, readdirSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import type { DataDir } from "./data-dir.ts";
import { canWrite, type ServiceUser } from "./service-user.ts";
import { reasonOf, StartError } from "./start-error.ts";

const OUTSIDE = "/var/lib/onsale";

/** The parent of the shards' data directories; makes it if needed. Throws StartError when none is usable. */
export function databasesDirectory(dataDir: DataDir, user: ServiceUser | undefined): string {
  const { state } = dataDir;
  const inside = join(dataDir.path, "databases");
  if (state.databasesId === undefined && hand(inside, user)) return inside;
  if (state.databasesId === undefined && holdsShards(inside)) {
    throw new StartError(`${nameOf(user)} cannot write into ${inside}, where the databases are`);
  }
  if (user === undefined)
    throw new StartError(`DATA_DIR ${dataDir.path} cannot be used: ${inside} is not writable`);
  const id = state.databasesId ?? randomUUID();
  const outside = join(OUTSIDE, id);
  if (!hand(outside, user)) {
    if (state.databasesId === undefined) rmSync(outside, { recursive: true, force: true }); // this start made it
    throw new StartError(
      `user ${user.name}, who runs PostgreSQL, can write neither into ${inside} nor into ${outside}`,
    );
  }
  state.databasesId = id;
  dataDir.saveState();
  return outside;
}

/** One more than the highest shard number that has data here: an interrupted start may leave gaps. */
export function shardsIn(directory: string): number {
  const numbers = readdirSync(directory).map((name) => Number(/^shard-(\d+)$/.exec(name)?.[1] ?? -1));
  return Math.max(-1, ...numbers) + 1;
}

/** Makes the directory for `user` alone; false when `user` cannot use it. An existing directory keeps its owner. */
function hand(directory: string, user: ServiceUser | undefined): boolean {
  try {
    if (!existsSync(directory)) {
      const parent = dirname(directory);
      if (mkdirSync(parent, { recursive: true }) !== undefined) chmodSync(parent, 0o711);
      mkdirSync(directory);
      chmodSync(directory, 0o700);
      if (user !== undefined) chownSync(directory, user.uid, user.gid);
    }
    return canWrite(user, directory);
  } catch (error) {
    // The file system may be read-only, or refuse to change owners.
    process.emitWarning(`${directory}: ${reasonOf(error)}`);
    return false;
  }
}

const holdsShards = (directory: string) => existsSync(directory) && shardsIn(directory) > 0;
const nameOf = (user: ServiceUser | undefined) => (user === undefined ? "you" : `user ${user.name}`);
