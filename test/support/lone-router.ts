/** A whole router whose only node is a fake that says yes to everything: for tests of what a router says by itself. */
import { connect } from "node:net";
import { text } from "node:stream/consumers";
import { routerConfig } from "../../router/config.ts";
import { startRouter } from "../../router/router.ts";
import type { Command } from "../../shared/domain/commands.ts";
import type { EventId } from "../../shared/domain/ids.ts";
import { readConfig } from "../../shared/process/config.ts";
import { type ChangeEventRequest, type CreateEventRequest, RPC } from "../../shared/wire/rpc.ts";
import { eventually } from "./eventually.ts";
import { json, resultsOf, type Said, startFakeNode } from "./fake-node.ts";
import { Client, INTERNAL_TOKEN, SECRET } from "./running-cluster.ts";
import { snapshot, SNAPSHOT_ID } from "./snapshots.ts";

const AT = "2026-01-01T00:00:00.000Z";

/** Every command is carried out, every event exists, no booking does. */
function yes(path: string, body: string): Said {
  const said: unknown = JSON.parse(body);
  if (path === RPC.commands)
    return resultsOf((said as { commands: Command[] }).commands.map((command) => bookedBy(command)));
  if (path === RPC.read) {
    const { kind, ids } = said as { kind: string; ids: EventId[] };
    return resultsOf(
      ids.map((id) =>
        kind === "event" ? { outcome: "found", value: snapshot(1, { id }) } : { outcome: "absent" },
      ),
    );
  }
  if (path === RPC.list) return json({ events: [] });
  const { id, changes, ...fields } = said as Partial<CreateEventRequest & ChangeEventRequest>;
  const { name, venue } = { ...fields, ...changes };
  return json({
    outcome: "saved",
    snapshot: snapshot(1, { ...(id && { id }), ...(name && { name }), ...(venue && { venue }) }),
  });
}

/** The result of a command that books. */
export function bookedBy(command: Command): object {
  const { userId, quantity } = command as { userId: string; quantity: number };
  const times = { expiresAt: null, createdAt: AT, updatedAt: AT };
  const booking = { id: SNAPSHOT_ID, eventId: SNAPSHOT_ID, userId, quantity, status: "confirmed", ...times };
  return { outcome: "booked", booking };
}

export type LoneRouter = Awaited<ReturnType<typeof startLoneRouter>>;

export async function startLoneRouter(
  env: Readonly<Record<string, string>> = {},
  answer: Parameters<typeof startFakeNode>[0] = yes,
) {
  const node = await startFakeNode(answer);
  const settings = {
    INTERNAL_TOKEN,
    AUTH_JWT_SECRET: SECRET,
    NODE_URLS: node.url,
    HOST: "127.0.0.1",
    PORT: "0",
    ADMIN_PORT: "0",
    LOG_LEVEL: "silent",
    RATE_LIMIT_PER_USER: "0",
    RATE_LIMIT_PER_ORGANIZER: "0",
    RATE_LIMIT_PER_ADDRESS: "0",
    ...env,
  };
  const router = await startRouter(readConfig(routerConfig, settings));
  await eventually("the router has a map", async () => (await fetch(`${router.adminUrl}/readyz`)).ok);
  return {
    node,
    client: new Client(router.url),
    /** What the router says to bytes of any kind, until it hangs up. */
    raw: async (bytes: string | Uint8Array): Promise<string> => {
      const socket = connect(Number(new URL(router.url).port), "127.0.0.1");
      socket.write(bytes);
      return text(socket);
    },
    /** The figures of a metric, by their labels as they stand in the text. */
    metric: async (name: string): Promise<Record<string, number>> => {
      const scraped = await (await fetch(`${router.adminUrl}/metrics`)).text();
      const figures = scraped.matchAll(new RegExp(`^${name}\\{(.*)\\} (\\S+)$`, "gm"));
      return Object.fromEntries([...figures].map(([, labels = "", figure]) => [labels, Number(figure)]));
    },
    async [Symbol.asyncDispose]() {
      await router.close();
      await node[Symbol.asyncDispose]();
    },
  };
}
