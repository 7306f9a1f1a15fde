import { readFileSync } from "node:fs";

/** Stops a server and its children in their tracks, as an overloaded or paused machine would, until it is disposed. */
export function freeze(pid: number): AsyncDisposable {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim().split(" ").map(Number);
  for (const each of [pid, ...children]) process.kill(each, "SIGSTOP");
  return {
    async [Symbol.asyncDispose]() {
      for (const each of [pid, ...children]) {
        try {
          process.kill(each, "SIGCONT");
        } catch {
          // It has ended meanwhile.
        }
      }
    },
  };
}
