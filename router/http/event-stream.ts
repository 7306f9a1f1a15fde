/**
 * A value as a stream of events (HTML standard, server-sent events): at once, and again whenever it is another. It ends with the
 * last value, when its client leaves, when its caller's token ends, and when the router drains.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Clock } from "../../shared/process/clock.ts";
import { Problem } from "./problems.ts";

const POLL_MS = 500;
/** So often something is sent. Who has closed half of the connection may still read; only what is sent finds out who is gone. */
const SILENCE_MAX_MS = 2_000;
/** A client whose stream ends without a last value asks again. */
const STREAM_MAX_MS = 600_000;

export interface Streamed<Value> {
  readonly first: Value;
  /** A Problem that it throws passes: the value is asked for again. */
  readonly next: () => Promise<Value>;
  readonly isLast: (value: Value) => boolean;
  /** Milliseconds since the epoch. */
  readonly until: number;
  readonly clock: Clock;
  readonly stop: AbortSignal;
  /** Called once, however it ends. */
  readonly ended: () => void;
  readonly requestId: string;
}

export function streamOfEvents<Value>(streamed: Streamed<Value>): Response {
  const left = new AbortController();
  const signal = AbortSignal.any([left.signal, streamed.stop]);
  const events = eventsOf(streamed, signal);
  const body = new ReadableStream<Uint8Array>({
    async pull(controller) {
      const { value, done } = await events.next();
      if (done === true) controller.close();
      else controller.enqueue(Buffer.from(value));
    },
    async cancel() {
      left.abort();
      // Or it would wait for ever to be read on.
      await events.return(undefined);
    },
  });
  return new Response(body, {
    headers: {
      "content-type": "text/event-stream; charset=utf-8",
      "cache-control": "no-store",
      "x-request-id": streamed.requestId,
    },
  });
}

async function* eventsOf<Value>(
  streamed: Streamed<Value>,
  signal: AbortSignal,
): AsyncGenerator<string, undefined> {
  const { first, next, isLast, until, clock, ended } = streamed;
  const startedAt = clock.elapsed();
  try {
    let value = first;
    let sent = "";
    let sentAt = startedAt;
    for (;;) {
      const text = JSON.stringify(value);
      if (text !== sent || clock.elapsed() - sentAt >= SILENCE_MAX_MS) {
        yield text === sent ? ":\n\n" : `data: ${text}\n\n`;
        [sent, sentAt] = [text, clock.elapsed()];
      }
      if (isLast(value) || clock.now() >= until || clock.elapsed() - startedAt >= STREAM_MAX_MS)
        return undefined;
      await sleep(POLL_MS, undefined, { signal }).catch(() => undefined);
      if (signal.aborted) return undefined;
      value = await next().catch((error: unknown) => {
        if (error instanceof Problem) return value;
        throw error;
      });
    }
  } finally {
    ended();
  }
}
