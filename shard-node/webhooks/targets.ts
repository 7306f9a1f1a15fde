/**
 * Where a webhook may lead. Organizers name the targets, and nodes stand inside the network, so an address inside must never be
 * reached for them (server-side request forgery). A name can mean another address each time it is asked for, so what is judged
 * are addresses, when a webhook is added and again for each connection, which then goes to the very address that was judged.
 */
import { Resolver } from "node:dns/promises";
import type { LookupFunction } from "node:net";
import ipaddr from "ipaddr.js";

/** none: there are no webhooks; public: https to public addresses; any: http and every address too, for development. */
export const WEBHOOK_TARGETS = ["none", "public", "any"] as const;
export type WebhookTargets = (typeof WEBHOOK_TARGETS)[number];

/** Those of https; others are mostly not of web servers. */
const PORTS = ["", "443", "8443"];
/** All of IPv6 that was ever given out (RFC 4291 §2.4, the IANA's registry). What lies elsewhere may hold an IPv4 address. */
const GLOBAL_IPV6 = ipaddr.IPv6.parseCIDR("2000::/3");
/** Of Azure: it answers each machine there, and looks public. */
const INSIDE = ["168.63.129.16"];

const RESOLVE_MS = 1_000;
const RESOLVE_TRIES = 2;

/** All addresses of a host's name; none when it has none. */
export type Resolve = (host: string) => Promise<readonly string[]>;

/** No connection was tried: it would have led where none may lead. */
export class ForbiddenTarget extends Error {
  override readonly name = "ForbiddenTarget";
}

export class Targets {
  readonly #allowed: WebhookTargets;
  readonly #resolve: Resolve;

  constructor(allowed: WebhookTargets, resolve: Resolve = resolveByDns) {
    this.#allowed = allowed;
    this.#resolve = resolve;
  }

  /** Why a webhook must not have this URL, or undefined. */
  async objectionTo(text: string): Promise<string | undefined> {
    try {
      const { hostname } = this.parse(text);
      await this.#addressesOf(hostname);
      return undefined;
    } catch (error) {
      if (error instanceof ForbiddenTarget) return error.message;
      throw error;
    }
  }

  /** The URL, if its form is allowed, and its address if it names one. Throws ForbiddenTarget. */
  parse(text: string): URL {
    if (this.#allowed === "none") throw new ForbiddenTarget("cannot be had: this cluster sends no webhooks");
    const url = URL.parse(text);
    const isHttp = this.#allowed === "any" && url?.protocol === "http:";
    if (url === null || (url.protocol !== "https:" && !isHttp))
      throw new ForbiddenTarget("must be an address that begins with https://");
    if (url.username !== "" || url.password !== "")
      throw new ForbiddenTarget("must have no user name and no password");
    if (this.#allowed === "public" && !PORTS.includes(url.port))
      throw new ForbiddenTarget("must have the port 443 or 8443");
    const literal = url.hostname.replace(/^\[|\]$/g, "");
    // Node.js looks up no address, so here is the only place where one is judged.
    if (ipaddr.isValid(literal)) this.#judge([literal]);
    return url;
  }

  /** For connections: the addresses of a host, if all of them are allowed. */
  readonly lookup: LookupFunction = (hostname, { all }, tell) => {
    this.#addressesOf(hostname).then(
      (found) => {
        const addresses = found.map((address) => ({ address, family: address.includes(":") ? 6 : 4 }));
        const [first = { address: "", family: 0 }] = addresses;
        if (all === true) tell(null, addresses);
        else tell(null, first.address, first.family);
      },
      (error: unknown) => tell(error instanceof Error ? error : new Error(String(error)), ""),
    );
  };

  async #addressesOf(hostname: string): Promise<readonly string[]> {
    const literal = hostname.replace(/^\[|\]$/g, "");
    const addresses = ipaddr.isValid(literal) ? [literal] : await this.#resolve(hostname);
    if (addresses.length === 0) throw new ForbiddenTarget("must have a host whose name leads to an address");
    this.#judge(addresses);
    return addresses;
  }

  #judge(addresses: readonly string[]): void {
    if (this.#allowed === "any" || addresses.every(isPublic)) return;
    throw new ForbiddenTarget("must lead to public addresses only");
  }
}

/** Whether an address is of the public Internet, and no other form of one that is not: IPv4 in IPv6, translated, tunnelled. */
export function isPublic(text: string): boolean {
  if (!ipaddr.isValid(text) || INSIDE.includes(text)) return false;
  const address = ipaddr.parse(text);
  if (address.range() !== "unicast") return false;
  return address instanceof ipaddr.IPv4 || address.match(GLOBAL_IPV6);
}

/**
 * Asks DNS alone: what this machine knows besides, such as the names of its neighbours, is nothing that a target may be. And the
 * system's own look-up keeps a thread of four for as long as a name server is silent.
 */
async function resolveByDns(host: string): Promise<readonly string[]> {
  const resolver = new Resolver({ timeout: RESOLVE_MS, tries: RESOLVE_TRIES });
  const found = await Promise.allSettled([resolver.resolve4(host), resolver.resolve6(host)]);
  return found.flatMap((each) => (each.status === "fulfilled" ? each.value : []));
}
