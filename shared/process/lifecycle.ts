/**
 * How a role's process starts and ends. SIGTERM and SIGINT drain and exit 0; a setting that cannot be used, or a start
 * that fails, is one clear message and exit 1. A broken invariant, and an error that nobody catches, end the process at
 * once with one log line and exit 1 (F8); whoever runs the role starts it again.
 */
import { ConfigError } from "./config.ts";
import { endOnBrokenInvariant } from "../domain/invariant.ts";
import { createLog } from "./log.ts";

/** Something that runs until it is closed. Closing drains it: what was accepted is finished first. */
export interface Running {
  close(): Promise<void>;
}

/** A drain that takes longer than this is a hang; the process ends with exit code 1. */
const DRAIN_MAX_SECONDS = 20;

/** Runs `start`, then waits for SIGTERM, SIGINT or (when a supervisor holds the IPC channel) the supervisor's end. */
export async function runRole(name: string, start: () => Promise<Running>): Promise<void> {
  const endWith = (bug: unknown): never => {
    createLog(name, "fatal").fatal({ err: bug }, "ending, because of a bug");
    process.exit(1);
  };
  endOnBrokenInvariant(endWith);
  // Rejected promises that nobody awaits come here too.
  process.on("uncaughtException", endWith);
  // A signal that arrives while the role is still starting is remembered and obeyed as soon as it has started.
  const stopRequested = new Promise<void>((resolve) => {
    for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, () => resolve());
    if (process.connected) process.once("disconnect", () => resolve());
  });
  try {
    const running = await start();
    await stopRequested;
    setTimeout(() => process.exit(1), DRAIN_MAX_SECONDS * 1000).unref();
    await running.close();
    process.exit(0);
  } catch (error) {
    const reason = reasonOf(error);
    process.stderr.write(`${name}: ${reason}\n`);
    process.exit(1);
  }
}

/** What an operator needs to know: a line for what they can mend, a stack for what only a developer can. */
function reasonOf(error: unknown): string {
  if (error instanceof ConfigError) return error.message;
  if (!(error instanceof Error)) return String(error);
  const { code, address, port } = error as NodeJS.ErrnoException & { address?: string; port?: number };
  switch (code ?? "") {
    case "EADDRINUSE":
      return `${address}:${port} is in use`;
    case "EACCES":
      return `${address}:${port} may not be used without more permissions`;
    case "EADDRNOTAVAIL":
    case "ENOTFOUND":
      return `HOST or ADMIN_HOST ${address ?? ""} is no address of this machine`;
    default:
      return error.stack ?? error.message;
  }
}
