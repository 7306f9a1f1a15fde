/**
 * Sends what a webhook is told: one POST, signed by Standard Webhooks (https://www.standardwebhooks.com). The target is foreign, so
 * its answer is bounded in time and size, redirects are not followed, and connections lead only where targets.ts lets them.
 */
import { Webhook } from "standardwebhooks";
import { Agent, errors } from "undici";
import { CLOUD_EVENT_TYPE } from "../../shared/domain/cloud-events.ts";
import { ForbiddenTarget, type Targets } from "./targets.ts";

/** A whole try: name, connection, answer. */
export const TRY_MAX_MS = 10_000;
/** Bytes of an answer that are read, so that its connection can be used again. */
const ANSWER_MAX_BYTES = 16 * 1024;
const HEADERS_MAX_BYTES = 16 * 1024;
const KEEP_ALIVE_MS = 10_000;

export interface Message {
  readonly url: string;
  readonly secret: string;
  /** The same in each try. */
  readonly id: string;
  readonly body: string;
}

export class WebhookSender {
  readonly #targets: Targets;
  readonly #agent: Agent;
  readonly #tryMs: number;

  /** `connectionsMax` is per host. */
  constructor(targets: Targets, connectionsMax: number, tryMs = TRY_MAX_MS) {
    this.#targets = targets;
    this.#tryMs = tryMs;
    this.#agent = new Agent({
      connections: connectionsMax,
      pipelining: 1,
      keepAliveTimeout: KEEP_ALIVE_MS,
      keepAliveMaxTimeout: KEEP_ALIVE_MS,
      maxHeaderSize: HEADERS_MAX_BYTES,
      // One timer for the whole try (below).
      headersTimeout: 0,
      bodyTimeout: 0,
      connect: { lookup: targets.lookup, timeout: tryMs },
    });
  }

  /** Returns undefined when the target has taken the message, else in a few words why not. Never throws. */
  async send({ url, secret, id, body }: Message): Promise<string | undefined> {
    const signal = AbortSignal.timeout(this.#tryMs);
    try {
      const { origin, pathname, search } = this.#targets.parse(url);
      const now = new Date();
      // What is signed is put together with full stops.
      const messageId = id.replaceAll(".", "_");
      const answer = await this.#agent.request({
        origin,
        path: pathname + search,
        method: "POST",
        headers: {
          "content-type": CLOUD_EVENT_TYPE,
          "user-agent": "onsale",
          "webhook-id": messageId,
          "webhook-timestamp": String(Math.floor(now.getTime() / 1000)),
          "webhook-signature": new Webhook(secret).sign(messageId, now, body),
        },
        body,
        signal,
        idempotent: false,
      });
      // What it says beside its status is of no interest, and may never end.
      await answer.body.dump({ limit: ANSWER_MAX_BYTES, signal }).catch(() => undefined);
      const { statusCode } = answer;
      return statusCode >= 200 && statusCode < 300 ? undefined : `status ${statusCode}`;
    } catch (error) {
      return signal.aborted ? `no answer in ${this.#tryMs} ms` : reasonOf(error);
    }
  }

  /** Ends what is under way. */
  async close(): Promise<void> {
    await this.#agent.destroy();
  }
}

/** Of foreign words only codes: they go into a log. */
function reasonOf(error: unknown): string {
  if (error instanceof ForbiddenTarget) return `the target ${error.message}`;
  if (error instanceof errors.UndiciError) return error.code;
  return error instanceof Error && "code" in error ? String(error.code) : "it failed";
}
