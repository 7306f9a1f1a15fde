/**
 * Which user runs the servers. PostgreSQL refuses to run as root, so under root they run as an unprivileged user that the
 * system already has; otherwise as whoever started the cluster. No user is created: it would outlive the cluster.
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

/** The user to switch to; undefined when this process is not root. */
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

/** Existing data must be run by the user who owns it. */
export function ownerOf(directory: string, fallback: ServiceUser | undefined): ServiceUser | undefined {
  if (fallback === undefined) return undefined;
  const { uid, gid } = statSync(directory);
  return uid === 0 ? fallback : { name: `uid ${uid}`, uid, gid };
}

/** The options that make node:child_process run something as `user`, from a directory that everybody can enter. */
export function runAs(user: ServiceUser | undefined): { cwd: string; uid?: number; gid?: number } {
  // PostgreSQL's programs must be able to enter their directory; `user` may not enter the current one.
  return user === undefined ? { cwd: "/" } : { cwd: "/", uid: user.uid, gid: user.gid };
}

/**
 * Whether `user` can write into this directory. It tries, as that user: only the kernel knows all modes, ACLs, and
 * read-only or root-squashing file systems.
 */
export function canWrite(user: ServiceUser | undefined, directory: string): boolean {
  const probe = 'test -d "$1" && test -x "$1" && : > "$1/.probe" && rm "$1/.probe"';
  const env = { PATH: "/bin:/usr/bin" }; // rm is there, whatever PATH says
  const args = ["-c", probe, "sh", directory];
  return spawnSync("/bin/sh", args, { ...runAs(user), env, stdio: "ignore" }).status === 0;
}

/** Whether `user` can run this program. It tries, with `--version`. */
export function canRun(user: ServiceUser | undefined, program: string): boolean {
  return spawnSync(program, ["--version"], { ...runAs(user), stdio: "ignore" }).status === 0;
}
