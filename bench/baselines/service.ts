/**
 * How the processes of a baseline start and end. The parent sends settings and questions over IPC. When the channel closes,
 * the process finishes what it accepted and ends, so nothing of a baseline outlives the bench.
 */
import { once } from "node:events";
import type { ContenderStats } from "./contender.ts";
import type { BaselineName, StrategySettings } from "./strategy.ts";

export interface ServiceSettings extends StrategySettings {
  readonly name: BaselineName;
  /** The secret that tokens are signed with (HS256). */
  readonly secret: string;
}

export type Question =
  { readonly kind: "stats" | "settle" } | { readonly kind: "created"; readonly eventIds: readonly string[] };

export interface Asked {
  readonly number: number;
  readonly question: Question;
}

export type Said =
  | { readonly kind: "ready"; readonly url: string }
  /** Every answer carries the statistics. `fault` says why the question could not be answered. */
  | {
      readonly kind: "answer";
      readonly number: number;
      readonly stats: ContenderStats;
      readonly fault?: string;
    };

export interface Service extends AsyncDisposable {
  /** The HTTP address, if the service has one. */
  readonly url?: string;
  readonly stats: ContenderStats;
  created?(eventIds: readonly string[]): Promise<void>;
  settle?(): Promise<void>;
}

const CLOSE_MAX_MS = 15_000;

/** Runs a service until the parent lets go. A start that fails ends the process with its reason on stderr. */
export async function serveParent(start: (settings: ServiceSettings) => Promise<Service>): Promise<void> {
  const say = (said: Said) => void (process.connected && process.send?.(said));
  // Ctrl-C reaches every process of the terminal, but the parent decides when to end.
  process.on("SIGINT", () => undefined);
  const released = once(process, "disconnect").then(() => {
    setTimeout(() => process.exit(1), CLOSE_MAX_MS).unref();
    return undefined;
  });
  const told = await Promise.race([once(process, "message"), released]);
  if (told === undefined) return;
  const [settings] = told as [ServiceSettings];
  const service = await start(settings);
  process.on("message", ({ number, question }: Asked) => {
    void answer(service, question).then((fault) =>
      say({ kind: "answer", number, stats: service.stats, ...(fault === undefined ? {} : { fault }) }),
    );
  });
  say({ kind: "ready", url: service.url ?? "" });
  await released;
  await service[Symbol.asyncDispose]();
  process.exit(0);
}

/** Answers a question, or says why it cannot. */
async function answer(service: Service, question: Question): Promise<string | undefined> {
  try {
    if (question.kind === "settle") await service.settle?.();
    if (question.kind === "created") await service.created?.(question.eventIds);
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}
