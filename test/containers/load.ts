/** A steady load for tests of what happens meanwhile: each request goes out when it is due, whatever became of those before. */
import { setTimeout as sleep } from "node:timers/promises";

export interface Answer {
  /** By `performance.now()`. */
  readonly sentAt: number;
  readonly ms: number;
  /** 0 when the connection broke. */
  readonly status: number;
  /** Of a problem document. */
  readonly code: string | undefined;
}

/** Sends until `stop`, which waits for the last answer. `ask` resolves when it has the whole answer. */
export function startLoad(
  ask: () => Promise<{ readonly status: number; readonly body?: unknown }>,
  perSecond: number,
) {
  const underWay: Promise<Answer>[] = [];
  const send = async (): Promise<Answer> => {
    const sentAt = performance.now();
    const { status, body } = await ask().catch(() => ({ status: 0, body: undefined }));
    const { code } = (body ?? {}) as { readonly code?: string };
    return { sentAt, ms: performance.now() - sentAt, status, code };
  };
  const stopping = new AbortController();
  const sending = (async () => {
    const began = performance.now();
    while (!stopping.signal.aborted) {
      while (underWay.length < ((performance.now() - began) / 1000) * perSecond) underWay.push(send());
      await sleep(1000 / perSecond);
    }
  })();
  return {
    async stop(): Promise<readonly Answer[]> {
      stopping.abort();
      await sending;
      return Promise.all(underWay);
    },
  };
}

/** 5xx, and connections that broke. */
export const failed = ({ status }: Answer): boolean => status === 0 || status >= 500;

/** What an operator wants to know of them, in one line. */
export function described(answers: readonly Answer[]): string {
  const share = (100 * answers.filter(failed).length) / answers.length;
  const longestMs = Math.max(...answers.map(({ ms }) => ms));
  return `${answers.length} requests, ${share.toFixed(1)} % failed, the longest took ${(longestMs / 1000).toFixed(1)} s`;
}
