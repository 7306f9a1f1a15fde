/** A node that owns every slot, decides nothing, and remembers how it was called. */
import { createServer, type IncomingHttpHeaders } from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import { SLOT_COUNT } from "../../shared/slots.ts";
import { RPC } from "../../shared/wire.ts";

export interface FakeNode extends AsyncDisposable {
  readonly url: string;
  /** All but the questions for the map. */
  readonly calls: readonly { path: string; headers: IncomingHttpHeaders; body: string }[];
}

/** `answer` is the body of every answer but the map. */
export async function startFakeNode(answer: unknown): Promise<FakeNode> {
  const calls: FakeNode["calls"][number][] = [];
  const server = createServer((request, response) => {
    const { url: path = "", headers } = request;
    const slotRanges = [[0, SLOT_COUNT - 1]];
    const map = { version: 1, shards: [{ id: "shard-0", nodeUrls: [url], slotRanges }] };
    void text(request).then((body) => {
      if (path !== RPC.map) calls.push({ path, headers, body });
      response.end(JSON.stringify(path === RPC.map ? map : answer));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return {
    url,
    calls,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
