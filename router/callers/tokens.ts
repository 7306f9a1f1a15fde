/**
 * Bearer tokens (RFC 7519): who is asking, and in which role. Nothing is believed of a token whose signature is
 * not good (`hs256.ts`, `key-set.ts`), and which algorithms are good is said by the kind of key, never by the token (RFC 8725 §3.1).
 * In a rush nearly every token is new, so checking one is on the hot path, and refusing one must be cheaper still: a token
 * that is malformed, forged or expired costs no exception (docs/decisions/0008-own-check-of-tokens.md).
 *
 * The only door to jose, which fetches key sets and signs tokens for the command line.
 */
import { createRemoteJWKSet, SignJWT } from "jose";
import { LRUCache } from "lru-cache";
import type { Clock } from "../../shared/process/clock.ts";
import { SharedSecret } from "./hs256.ts";
import { parseUserId, type UserId } from "../../shared/domain/ids.ts";
import { keySetVerifier } from "./key-set.ts";

export const ROLES = ["buyer", "organizer", "operator"] as const;
export type Role = (typeof ROLES)[number];

export interface Caller {
  readonly userId: UserId;
  readonly role: Role;
  /** When the token ends, in milliseconds since the epoch. */
  readonly expiresAt: number;
}

/** While the shared secret is exchanged, tokens that `previousSecret` signed are good as well (docs/operations.md). */
export type TokenKeys =
  { readonly secret: string; readonly previousSecret?: string | undefined } | { readonly jwksUrl: string };

export interface TokenRules {
  readonly keys: TokenKeys;
  /** Checked when given. */
  readonly issuer?: string | undefined;
  readonly audience?: string | undefined;
}

type Verdict = Caller | undefined;
type Verify = (token: string) => Verdict | Promise<Verdict>;

/** Says who holds a token. */
export class TokenVerifier {
  /**
   * The caller, or undefined when the token is forged, expired, without `exp`, or not for us. A promise of it only where a
   * public key must be asked for or used; a shared secret and a token that is remembered give it at once.
   */
  readonly verify: Verify;

  constructor(rules: TokenRules, clock: Clock) {
    this.verify =
      "secret" in rules.keys
        ? bySharedSecret(rules.keys, rules, clock)
        : rememberingCallers(byKeySet(rules.keys, rules, clock), clock);
  }
}

/** A token signed with the shared secret (HS256). */
export async function mintToken(claims: {
  secret: string;
  sub: string;
  role: Role;
  ttlSeconds: number;
}): Promise<string> {
  return new SignJWT({ role: claims.role })
    .setProtectedHeader({ alg: "HS256", typ: "JWT" })
    .setSubject(claims.sub)
    .setIssuedAt()
    .setExpirationTime(`${claims.ttlSeconds}s`)
    .sign(new TextEncoder().encode(claims.secret));
}

/** Three parts of base64url (RFC 7515 §7.1), none of them empty. */
const COMPACT = /^[\w-]+\.[\w-]+\.[\w-]+$/;
/** How many forms of a header are known as good: a sender writes one or two. */
const HEADERS_MAX = 16;

type Json = Readonly<Record<string, unknown>>;

/**
 * Nothing is remembered: the check costs three times as much as the look into the memory, and a rush in which everybody is
 * new would pay for both, and for the garbage that grows old in the memory.
 */
function bySharedSecret(
  keys: { readonly secret: string; readonly previousSecret?: string | undefined },
  rules: TokenRules,
  clock: Clock,
): Verify {
  const current = new SharedSecret(keys.secret);
  const previous = keys.previousSecret === undefined ? undefined : new SharedSecret(keys.previousSecret);
  const goodHeaders = new Set<string>();
  const isGoodHeader = (token: string): boolean => {
    const part = token.slice(0, token.indexOf("."));
    if (goodHeaders.has(part)) return true;
    if (headerOf(token)?.["alg"] !== "HS256") return false;
    if (goodHeaders.size < HEADERS_MAX) goodHeaders.add(part);
    return true;
  };
  return (token) => {
    if (!COMPACT.test(token)) return undefined;
    // The second secret costs only those that the first did not sign.
    if (!current.hasSigned(token) && previous?.hasSigned(token) !== true) return undefined;
    return isGoodHeader(token) ? callerOf(token, rules, clock.now()) : undefined;
  };
}

function byKeySet(
  { jwksUrl }: { readonly jwksUrl: string },
  rules: TokenRules,
  clock: Clock,
): (token: string) => Promise<Verdict> {
  const isSigned = keySetVerifier(createRemoteJWKSet(new URL(jwksUrl)));
  return async (token) => {
    if (!COMPACT.test(token)) return undefined;
    // The claims first: they are read in a fraction of what the signature costs.
    const [header, caller] = [headerOf(token), callerOf(token, rules, clock.now())];
    if (header === undefined || caller === undefined) return undefined;
    try {
      return (await isSigned(token, header)) ? caller : undefined;
    } catch {
      // There is no such key, or nobody tells.
      return undefined;
    }
  };
}

const REMEMBERED_MAX = 20_000;
const REMEMBERED_BYTES_MAX = 8 * 1024 * 1024;
const REMEMBERED_MS = 30_000;
/** What an entry takes beside its token, about. */
const ENTRY_BYTES = 256;

/**
 * `verify`, but the last callers are remembered for a while: a public key costs a hundred times the look into the memory, so
 * that even a rush of new callers, who push each other out, loses little by it. The bound is one of bytes because the
 * issuer decides how long a token is.
 */
function rememberingCallers(verify: (token: string) => Promise<Verdict>, clock: Clock): Verify {
  const remembered = new LRUCache<string, { readonly caller: Caller; readonly until: number }>({
    max: REMEMBERED_MAX,
    maxSize: REMEMBERED_BYTES_MAX,
    sizeCalculation: (_entry, token) => token.length + ENTRY_BYTES,
  });
  return (token) => {
    const known = remembered.get(token);
    if (known !== undefined && clock.now() < known.until) return known.caller;
    return verify(token).then((caller) => {
      if (caller !== undefined) {
        const until = Math.min(caller.expiresAt, clock.now() + REMEMBERED_MS);
        remembered.set(token, { caller, until });
      }
      return caller;
    });
  };
}

/** The header of a token, unless it names an extension that must be understood (RFC 7515 §4.1.11): none is. */
function headerOf(token: string): Json | undefined {
  const header = parsed(token.slice(0, token.indexOf(".")));
  return header === undefined || "crit" in header ? undefined : header;
}

/** The JSON object in a part of a token. */
function parsed(part: string): Json | undefined {
  try {
    const value: unknown = JSON.parse(Buffer.from(part, "base64url").toString());
    return typeof value === "object" && value !== null ? (value as Json) : undefined;
  } catch {
    return undefined;
  }
}

/** Who a token speaks of, if its claims are good at this time (RFC 7519 §4.1). Its signature is not looked at. */
function callerOf(token: string, { issuer, audience }: TokenRules, now: number): Verdict {
  const claims = parsed(token.slice(token.indexOf(".") + 1, token.lastIndexOf(".")));
  if (claims === undefined) return undefined;
  const { sub, exp, nbf, iss, aud, role = "buyer" } = claims;
  const seconds = Math.floor(now / 1000);
  if (typeof exp !== "number" || exp <= seconds) return undefined;
  if (nbf !== undefined && !(typeof nbf === "number" && nbf <= seconds)) return undefined;
  if (issuer !== undefined && iss !== issuer) return undefined;
  if (audience !== undefined && aud !== audience && !(Array.isArray(aud) && aud.includes(audience)))
    return undefined;
  const userId = parseUserId(sub);
  const known = ROLES.find((candidate) => candidate === role);
  if (userId === undefined || known === undefined) return undefined;
  return { userId, role: known, expiresAt: exp * 1000 };
}
