/** A node that decides nothing: it says what a test tells it to say, and remembers how it was called. */
import type { IncomingHttpHeaders } from "node:http";
import { text } from "node:stream/consumers";
import { SLOT_COUNT } from "../../shared/domain/slots.ts";
import { RPC, RPC_VERSION, RPC_VERSION_HEADER } from "../../shared/wire/rpc.ts";
import { serve } from "./listen.ts";

/** A shard map as it travels. */
export interface FakeMap {
  readonly version: number;
  readonly shards: readonly { id: string; nodeUrls: string[]; slotRanges: [number, number][] }[];
  readonly databaseUp?: boolean;
}

export interface FakeNode extends AsyncDisposable {
  readonly url: string;
  /** All calls but those for the map. */
  readonly calls: readonly { path: string; headers: IncomingHttpHeaders; body: string }[];
  /** What the node says of the map; at first, that it serves a shard that owns every slot. */
  map: FakeMap;
  /** So many of the next questions for the map are hung up on. */
  mapSilences: number;
}

export interface Said {
  readonly status?: number;
  readonly body: string;
  /** Of the RPC; undefined leaves the header out. */
  readonly version?: string | undefined;
}

export function json(body: unknown, version = RPC_VERSION): Said {
  return { body: JSON.stringify(body), version };
}

/** The answer to a call of commands or of reads. */
export function resultsOf(results: unknown, snapshots: unknown = [], mapVersion = 1): Said {
  return json({ results, snapshots, mapVersion });
}

/** A map in which one shard owns every slot. */
export function mapOf(version: number, id: string, nodeUrls: string[]): FakeMap {
  return { version, shards: [{ id, nodeUrls, slotRanges: [[0, SLOT_COUNT - 1]] }] };
}

/** `answer` answers every call but those for the map, or never, or hangs up. */
export async function startFakeNode(
  answer: (path: string, body: string) => Said | "hang_up" | Promise<Said>,
): Promise<FakeNode> {
  const calls: FakeNode["calls"][number][] = [];
  const server = await serve(async (request, response) => {
    const { url: path = "", headers } = request;
    const body = await text(request);
    if (path !== RPC.map) calls.push({ path, headers, body });
    else if (node.mapSilences > 0) {
      node.mapSilences -= 1;
      return void request.socket.destroy();
    }
    const said = path === RPC.map ? json({ databaseUp: true, ...node.map }) : await answer(path, body);
    if (said === "hang_up") return void request.socket.destroy();
    const version = said.version === undefined ? {} : { [RPC_VERSION_HEADER]: said.version };
    return response.writeHead(said.status ?? 200, version).end(said.body);
  });
  const node: FakeNode = { ...server, calls, map: mapOf(1, "shard-0", [server.url]), mapSilences: 0 };
  return node;
}
