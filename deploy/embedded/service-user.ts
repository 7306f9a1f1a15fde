/**
 * Who runs the servers. PostgreSQL refuses to run as root, so a cluster started by root runs its servers as an
 * unprivileged user that the system already has; started by anybody else, they run as that user. Nothing here creates
 * a user: that would outlive the cluster.
 */
import { spawnSync } from "node:child_process";
import { readFileSync, statSync } from "node:fs";
import { StartError } from "./start-error.ts";

export interface ServiceUser {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
}

const CANDIDATES = ["postgres", "nobody"];

/** The user to switch to, or undefined when the servers run as whoever started us. */
export function serviceUser(): ServiceUser | undefined {
  if (process.getuid?.() !== 0) return undefined;
  const accounts = readFileSync("/etc/passwd", "utf8")
    .split("\n")
    .map((line) => line.split(":"));
  for (const candidate of CANDIDATES) {
    const account = accounts.find(([name]) => name === candidate);
    const [uid, gid] = [Number(account?.[2]), Number(account?.[3])];
    if (account !== undefined && uid !== 0) return { name: candidate, uid, gid };
  }
  throw new StartError(`PostgreSQL refuses to run as root and there is no user ${CANDIDATES.join(" or ")}`);
}

/** Existing data belongs to the user who made it, whoever root would choose today. */
export function ownerOf(directory: string, fallback: ServiceUser | undefined): ServiceUser | undefined {
  if (fallback === undefined) return undefined;
  const { uid, gid } = statSync(directory);
  return uid === 0 ? fallback : { name: `uid ${uid}`, uid, gid };
}

/** The options that make node:child_process run something as `user`, from a directory that everybody can enter. */
export function runAs(user: ServiceUser | undefined): { cwd: string; uid?: number; gid?: number } {
  // Not the current directory: it may be one that the user cannot enter, and PostgreSQL's programs insist on that.
  return user === undefined ? { cwd: "/" } : { cwd: "/", uid: user.uid, gid: user.gid };
}

/**
 * Can `user` write into this directory? Answered by trying as that user: modes of every parent, ACLs, read-only and
 * root-squashing file systems all have a say, and only the kernel knows them all.
 */
export function canWrite(user: ServiceUser | undefined, directory: string): boolean {
  const probe = 'test -d "$1" && test -x "$1" && : > "$1/.probe" && rm "$1/.probe"';
  const env = { PATH: "/bin:/usr/bin" }; // where rm is, whatever PATH we were given
  const args = ["-c", probe, "sh", directory];
  return spawnSync("/bin/sh", args, { ...runAs(user), env, stdio: "ignore" }).status === 0;
}

/** Can `user` run this program? Answered by running it with `--version`. */
export function canRun(user: ServiceUser | undefined, program: string): boolean {
  return spawnSync(program, ["--version"], { ...runAs(user), stdio: "ignore" }).status === 0;
}
