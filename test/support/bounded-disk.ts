/** A small file system for a database, and how it becomes full. Only a full one is full for root and everybody. */
import { spawnSync } from "node:child_process";
import { chownSync, mkdirSync, rmSync, statfsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { serviceUser } from "../../deploy/embedded/service-user.ts";

export interface BoundedDisk extends Disposable {
  readonly directory: string;
  /** Leaves no room at all. Returns what makes room again. */
  fill(): () => void;
}

/** Makes the directory, for the user who runs databases. Undefined where this process may not mount: then it is no disk of its own. */
export function boundedDisk(directory: string, sizeBytes: number): BoundedDisk | undefined {
  mkdirSync(directory, { mode: 0o700 });
  const user = serviceUser();
  const owner = user === undefined ? "" : `,uid=${user.uid},gid=${user.gid}`;
  const options = `size=${sizeBytes},mode=0700${owner}`;
  if (spawnSync("mount", ["-t", "tmpfs", "-o", options, "tmpfs", directory]).status !== 0) {
    if (user !== undefined) chownSync(directory, user.uid, user.gid);
    return undefined;
  }
  return {
    directory,
    fill() {
      const ballast = join(directory, "ballast");
      const { bavail, bsize } = statfsSync(directory);
      // In pieces: one buffer of all of it would take as much memory again.
      const piece = Buffer.alloc(1024 * 1024);
      writeFileSync(ballast, "");
      try {
        for (let written = 0; written <= bavail * bsize; written += piece.length)
          writeFileSync(ballast, piece, { flag: "a" });
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "ENOSPC") throw error;
      }
      return () => rmSync(ballast);
    },
    [Symbol.dispose]: () => void spawnSync("umount", [directory]),
  };
}
