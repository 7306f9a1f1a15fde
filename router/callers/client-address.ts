/**
 * Finds the network of the client that sent a request, for the limits of writes.
 *
 * A proxy forwards the requests of many clients and names the client in `X-Forwarded-For`. Every client can write that header
 * too. So it counts only when a trusted proxy sent it, and of its entries only the last, which that proxy wrote. When a trusted
 * proxy names no client, the address is unknown.
 */
import { BlockList, isIP } from "node:net";

/** An address, or a network in CIDR notation: `10.0.0.7`, `172.16.0.0/12`, `fd00::/8`. */
const NETWORK = /^([^/]+)(?:\/(\d{1,3}))?$/;
/** Peers that are remembered as a proxy or not. Proxies are few, but direct clients may be many. */
const PEERS_MAX = 1_000;

/** Returns undefined when an entry is neither an address nor a network. */
export function networksFrom(list: readonly string[]): BlockList | undefined {
  const networks = new BlockList();
  for (const text of list) {
    const [, address = "", prefix] = NETWORK.exec(text) ?? [];
    const version = isIP(address);
    const bits = version === 4 ? 32 : 128;
    if (version === 0 || Number(prefix ?? bits) > bits) return undefined;
    networks.addSubnet(address, Number(prefix ?? bits), version === 4 ? "ipv4" : "ipv6");
  }
  return networks;
}

/** Finds the client's network from the address of the connection and the header; undefined when it is unknown. */
export type ClientAddress = (
  peer: string | undefined,
  forwardedFor: string | undefined,
) => string | undefined;

export function clientAddressBehind(proxies: BlockList): ClientAddress {
  const peers = new Map<string, boolean>();
  const isProxy = (peer: string): boolean => {
    let known = peers.get(peer);
    if (known === undefined) {
      known = proxies.check(peer, isIP(peer) === 6 ? "ipv6" : "ipv4");
      if (peers.size >= PEERS_MAX) peers.clear();
      peers.set(peer, known);
    }
    return known;
  };
  return (peer, forwardedFor) => {
    if (peer === undefined) return undefined;
    if (!isProxy(peer)) return networkOf(peer);
    const client = forwardedFor?.slice(forwardedFor.lastIndexOf(",") + 1).trim() ?? "";
    return isIP(client) === 0 ? undefined : networkOf(client);
  };
}

/** A client has one IPv4 address, but all 2^64 IPv6 addresses of its network (RFC 6177). */
function networkOf(address: string): string {
  if (!address.includes(":")) return address;
  // Node.js writes an IPv4 address so on a socket for both families.
  if (address.startsWith("::ffff:") && address.includes(".")) return address.slice("::ffff:".length);
  const [before = "", after] = address.split("::");
  const groups = before === "" ? [] : before.split(":");
  while (after !== undefined && groups.length < 8 - after.split(":").length) groups.push("0");
  return groups
    .concat(after?.split(":") ?? [])
    .slice(0, 4)
    .join(":");
}
