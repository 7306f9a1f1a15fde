/**
 * A TCP proxy that harms connections. What it does to each one, on which side and after how many bytes, is planned by the
 * caller when the connection is made.
 */
import type { Socket } from "node:net";
import { startRelay } from "../../support/proxy.ts";

export interface Plan {
  /** `end` hangs up, `reset` breaks the connection, `stall` lets nothing through any more, `slow` delays all that follows. */
  readonly harm: "none" | "end" | "reset" | "stall" | "slow";
  /** Bytes of this side pass unharmed… */
  readonly from: "client" | "server";
  /** …up to this number of them, so the harm falls into the middle of a message. */
  readonly afterBytes: number;
}

export const HARMLESS: Plan = { harm: "none", from: "client", afterBytes: 0 };

export interface HarmfulProxy extends AsyncDisposable {
  /** The given URL by way of the proxy. */
  readonly url: string;
  /** Connections that clients still hold. */
  readonly open: number;
  /** How often each harm was done. */
  readonly done: Readonly<Record<string, number>>;
}

const SLOW_MS = 30;
/** One side hangs up; this is how long the other has to notice. */
const GRACE_MS = 50;

export async function startHarmfulProxy(url: string, plan: () => Plan): Promise<HarmfulProxy> {
  const done: Record<string, number> = {};
  const clients = new Set<Socket>();
  const relay = await startRelay(url, (client, server) => {
    clients.add(client);
    client.on("close", () => clients.delete(client));
    link(client, server, plan(), (harm) => (done[harm] = (done[harm] ?? 0) + 1));
  });
  return {
    ...relay,
    get open() {
      return clients.size;
    },
    done,
  };
}

/** Passes bytes on in both directions until the plan's moment comes. */
function link(client: Socket, server: Socket, plan: Plan, onHarm: (harm: Plan["harm"]) => void): void {
  let left = plan.harm === "none" ? Infinity : plan.afterBytes;
  let isHarmed = false;
  let isSilent = false;

  const pass = (from: Plan["from"], to: Socket) => (chunk: Buffer) => {
    if (isSilent) return;
    if (from !== plan.from || (!isHarmed && chunk.length < left)) {
      if (from === plan.from) left -= chunk.length;
      to.write(chunk);
      return;
    }
    if (!isHarmed) onHarm(plan.harm);
    isHarmed = true;
    if (plan.harm === "slow") {
      setTimeout(() => to.destroyed || to.write(chunk), SLOW_MS);
      return;
    }
    isSilent = true;
    // What passes unharmed arrives before the harm does.
    to.write(chunk.subarray(0, left), () => {
      if (plan.harm !== "stall") setImmediate(cut, [client, server], plan.harm === "reset");
    });
  };

  client.on("data", pass("client", server));
  server.on("data", pass("server", client));
  client.on("close", () => server.destroy());
  server.on("close", () => setTimeout(() => client.destroy(), GRACE_MS));
}

function cut(sockets: readonly Socket[], abruptly: boolean): void {
  for (const socket of sockets) {
    if (abruptly) socket.resetAndDestroy();
    else socket.end();
  }
  if (!abruptly) setTimeout(() => sockets.forEach((socket) => socket.destroy()), GRACE_MS);
}
