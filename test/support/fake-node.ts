/** A node that owns every slot, decides nothing, and remembers how it was called. */
import { createServer, type IncomingHttpHeaders } from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import { SLOT_COUNT } from "../../shared/domain/slots.ts";
import { RPC, RPC_VERSION, RPC_VERSION_HEADER } from "../../shared/wire/rpc.ts";

export interface FakeNode extends AsyncDisposable {
  readonly url: string;
  /** All but the questions for the map. */
  readonly calls: readonly { path: string; headers: IncomingHttpHeaders; body: string }[];
}

/** What a fake node says where it is not the JSON of a good answer. */
export interface Said {
  readonly status?: number;
  readonly body: string;
  /** Of the RPC; undefined leaves the header out. */
  readonly version?: string | undefined;
}

/** `answer` is the body of every answer but the map, or makes it; `others` are further nodes of the shard. */
export async function startFakeNode(
  answer: object | ((path: string, body: string) => Said),
  others: readonly FakeNode[] = [],
): Promise<FakeNode> {
  const calls: FakeNode["calls"][number][] = [];
  const server = createServer((request, response) => {
    const { url: path = "", headers } = request;
    const slotRanges = [[0, SLOT_COUNT - 1]];
    const nodeUrls = [url, ...others.map((other) => other.url)];
    const map = { version: 1, databaseUp: true, shards: [{ id: "shard-0", nodeUrls, slotRanges }] };
    void text(request).then((body) => {
      if (path !== RPC.map) calls.push({ path, headers, body });
      const said: Said =
        path === RPC.map
          ? { body: JSON.stringify(map), version: RPC_VERSION }
          : typeof answer === "function"
            ? answer(path, body)
            : { body: JSON.stringify(answer), version: RPC_VERSION };
      const version = said.version === undefined ? {} : { [RPC_VERSION_HEADER]: said.version };
      response.writeHead(said.status ?? 200, version).end(said.body);
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
