/** Bytes over a client's connection for one request, counted as they pass. */
import { connect } from "node:net";
import { requestsOf } from "../../load/requests.ts";
import type { RequestPlan } from "../../load/plan.ts";
import type { Target } from "../../load/connection.ts";

const ANSWER_MAX_MS = 5_000;

export interface Exchange {
  readonly request: number;
  readonly answer: number;
  readonly status: number;
}

/** Sends one request and counts. Throws when no whole answer comes. */
export async function exchange(target: Target, plan: RequestPlan): Promise<Exchange> {
  const request = requestsOf(plan, target).next();
  return new Promise<Exchange>((resolve, reject) => {
    const socket = connect(target);
    let received = "";
    const late = setTimeout(() => socket.destroy(new Error("no answer came")), ANSWER_MAX_MS);
    socket.setEncoding("latin1");
    socket.once("error", reject);
    socket.once("close", () => clearTimeout(late));
    socket.on("data", (piece: string) => {
      received += piece;
      const headersEnd = received.indexOf("\r\n\r\n") + 4;
      const length = Number(/\r\ncontent-length: *(\d+)/i.exec(received)?.[1] ?? Number.NaN);
      if (headersEnd < 4 || !(received.length >= headersEnd + length)) return;
      socket.destroy();
      resolve({
        request: Buffer.byteLength(request, "latin1"),
        answer: received.length,
        status: Number(received.slice(9, 12)),
      });
    });
    socket.write(request, "latin1");
  });
}
