/**
 * Bearer tokens (RFC 7519) and the callers that they name. A token counts only with a valid signature (hs256.ts, key-set.ts).
 * The kind of key decides the algorithm, never the token (RFC 8725 §3.1). In a rush nearly every token is new, so the check is
 * on the hot path. A bad token must cost even less, so it throws no exception (docs/decisions/0008-own-check-of-tokens.md).
 *
 * The only door to jose, which fetches key sets and signs tokens for the command line.
 */
import { createRemoteJWKSet, SignJWT } from "jose";
import { LRUCache } from "lru-cache";
import { parseUserId, type UserId } from "../../shared/domain/ids.ts";
import type { Clock } from "../../shared/process/clock.ts";
import { SharedSecret } from "./hs256.ts";
import { keySetVerifier } from "./key-set.ts";

export const ROLES = ["buyer", "organizer", "operator"] as const;
export type Role = (typeof ROLES)[number];

export interface Caller {
  readonly userId: UserId;
  readonly role: Role;
  /** When the token expires, in milliseconds since the epoch. */
  readonly expiresAt: number;
}

interface Secrets {
  readonly secret: string;
  /** While operators exchange the secret, tokens of the previous one are valid too (docs/operations.md). */
  readonly previousSecret?: string | undefined;
}

interface TokenRules {
  readonly keys: Secrets | { readonly jwksUrl: string };
  /** Checked only when it is configured. */
  readonly issuer?: string | undefined;
  readonly audience?: string | undefined;
}

/**
 * Why a token is refused; a closed set, because it is a metric's label. `sub`: everything else in the token is good. `key_set`: the
 * set has no such key, or its server does not answer.
 */
export const TOKEN_FAULTS = [
  "malformed",
  "header",
  "signature",
  "key_set",
  "expired",
  "not_yet_valid",
  "claims",
  "sub",
] as const;
export type TokenFault = (typeof TOKEN_FAULTS)[number];
type Verdict = Caller | TokenFault;
type Verify = (token: string) => Verdict | Promise<Verdict>;

/** Finds the caller that a token names. */
export class TokenVerifier {
  /** Gives a promise only when a public key must check the token. */
  readonly verify: Verify;

  constructor(rules: TokenRules, clock: Clock) {
    this.verify =
      "secret" in rules.keys
        ? bySharedSecret(rules.keys, rules, clock)
        : rememberingCallers(byKeySet(rules.keys, rules, clock), clock);
  }
}

/** Signs a token with the shared secret (HS256). */
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

/** Three parts of base64url (RFC 7515 §7.1), none empty. */
const COMPACT = /^[\w-]+\.[\w-]+\.[\w-]+$/;
/** How far the clock of an issuer may be ahead of this one. */
const LEEWAY_SECONDS = 5;
/** Ten years. A token that ends later is good for ever in practice, and nothing takes a token back. */
const LIFE_MAX_SECONDS = 3653 * 24 * 3600;
/** Headers that are remembered as valid. An issuer writes one or two. */
const HEADERS_MAX = 16;

type Json = Readonly<Record<string, unknown>>;

/**
 * Remembers no token. A check costs only three times a look-up, and a rush of new buyers would pay for both, and for the
 * garbage that grows old in the memory.
 */
function bySharedSecret({ secret, previousSecret }: Secrets, rules: TokenRules, clock: Clock): Verify {
  const current = new SharedSecret(secret);
  const previous = previousSecret === undefined ? undefined : new SharedSecret(previousSecret);
  const goodHeaders = new Set<string>();
  const isGoodHeader = (token: string): boolean => {
    const part = token.slice(0, token.indexOf("."));
    if (goodHeaders.has(part)) return true;
    if (headerOf(token)?.["alg"] !== "HS256") return false;
    if (goodHeaders.size < HEADERS_MAX) goodHeaders.add(part);
    return true;
  };
  return (token) => {
    if (!COMPACT.test(token)) return "malformed";
    // Only tokens that the current secret did not sign pay for a second check.
    if (!current.hasSigned(token) && previous?.hasSigned(token) !== true) return "signature";
    return isGoodHeader(token) ? callerOf(token, rules, clock.now()) : "header";
  };
}

function byKeySet(
  { jwksUrl }: { readonly jwksUrl: string },
  rules: TokenRules,
  clock: Clock,
): (token: string) => Promise<Verdict> {
  const faultOf = keySetVerifier(createRemoteJWKSet(new URL(jwksUrl)));
  return async (token) => {
    if (!COMPACT.test(token)) return "malformed";
    const header = headerOf(token);
    if (header === undefined) return "header";
    // The claims first, because they cost a fraction of the signature. A wrong sub is told to nobody but its owner.
    const caller = callerOf(token, rules, clock.now());
    if (typeof caller !== "object" && caller !== "sub") return caller;
    try {
      return (await faultOf(token, header)) ?? caller;
    } catch {
      return "key_set";
    }
  };
}

const REMEMBERED_MAX = 20_000;
const REMEMBERED_BYTES_MAX = 8 * 1024 * 1024;
const REMEMBERED_MS = 30_000;
/** About what an entry takes beside its token. */
const ENTRY_BYTES = 256;

/**
 * Remembers the last callers for a while. A check with a public key costs a hundred look-ups, so even a rush of new callers,
 * who push each other out, loses little. The memory is bounded in bytes, because the issuer decides the length of a token.
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
      if (typeof caller === "object") {
        const until = Math.min(caller.expiresAt, clock.now() + REMEMBERED_MS);
        remembered.set(token, { caller, until });
      }
      return caller;
    });
  };
}

/** Refuses a header that demands an extension (RFC 7515 §4.1.11), because none is known here. */
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

/** Checks the claims of a token at this time (RFC 7519 §4.1), not its signature. */
function callerOf(token: string, { issuer, audience }: TokenRules, now: number): Verdict {
  const claims = parsed(token.slice(token.indexOf(".") + 1, token.lastIndexOf(".")));
  if (claims === undefined) return "malformed";
  const { sub, exp, nbf, iat, iss, aud, role = "buyer" } = claims;
  const seconds = Math.floor(now / 1000);
  const hasBegun = (time: unknown): boolean =>
    time === undefined || (typeof time === "number" && time <= seconds + LEEWAY_SECONDS);
  if (typeof exp !== "number" || exp > seconds + LIFE_MAX_SECONDS) return "claims";
  if (exp <= seconds) return "expired";
  if (!hasBegun(nbf) || !hasBegun(iat)) return "not_yet_valid";
  if (issuer !== undefined && iss !== issuer) return "claims";
  if (audience !== undefined && aud !== audience && !(Array.isArray(aud) && aud.includes(audience)))
    return "claims";
  const known = ROLES.find((candidate) => candidate === role);
  if (known === undefined) return "claims";
  const userId = parseUserId(sub);
  if (userId === undefined) return "sub";
  return { userId, role: known, expiresAt: exp * 1000 };
}
