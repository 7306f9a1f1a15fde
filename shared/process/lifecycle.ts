/**
 * How a role's process starts and ends. On SIGTERM and SIGINT it drains and exits with 0. A bad setting or a failed start
 * prints one message and exits with 1. A broken invariant or an uncaught error writes one log line and exits with 1 at once
 * (F8); a supervisor starts the role again.
 */
import { endOnBrokenInvariant } from "../domain/invariant.ts";
import { ConfigError } from "./config.ts";
import { createLog } from "./log.ts";

/** A running role. `close` finishes all accepted work first. */
export interface Running {
  close(): Promise<void>;
}

/** After this time a drain counts as a hang, and the process exits with 1. */
const DRAIN_MAX_SECONDS = 20;

/** Runs `start`, then waits for SIGTERM, SIGINT or the end of a supervisor that holds the IPC channel. */
export async function runRole(name: string, start: () => Promise<Running>): Promise<void> {
  const endWith = (bug: unknown): never => {
    createLog(name, "fatal").fatal({ err: bug }, "ending, because of a bug");
    process.exit(1);
  };
  endOnBrokenInvariant(endWith);
  // Also for rejected promises that nobody awaits.
  process.on("uncaughtException", endWith);
  // A signal during the start takes effect after the start.
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
    process.stderr.write(`${name}: ${reasonOf(error)}\n`);
    process.exit(1);
  }
}

/** One line for what an operator can mend, a stack for the rest. */
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
