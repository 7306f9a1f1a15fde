/** Bearer tokens (RFC 7519), the only door to jose: who is asking, and in which role. */
import { createHmac, createSecretKey, timingSafeEqual } from "node:crypto";
import {
  createRemoteJWKSet,
  decodeProtectedHeader,
  type JWTPayload,
  jwtVerify,
  type JWTVerifyOptions,
  SignJWT,
  UnsecuredJWT,
} from "jose";
import { LRUCache } from "lru-cache";
import type { Clock } from "./clock.ts";
import { parseUserId, type UserId } from "./ids.ts";

export const ROLES = ["buyer", "organizer", "operator"] as const;
export type Role = (typeof ROLES)[number];

export interface Caller {
  readonly userId: UserId;
  readonly role: Role;
}

export type TokenKeys = { readonly secret: string } | { readonly jwksUrl: string };

export interface TokenRules {
  readonly keys: TokenKeys;
  /** Checked when given. */
  readonly issuer?: string | undefined;
  readonly audience?: string | undefined;
}

/**
 * How many tokens are remembered that were verified with a public key, and for how long. (jose itself keeps a fetched key
 * set for ten minutes.) Verifying with a shared secret is about as cheap as remembering, and what is remembered of a rush
 * in which everybody is new is only garbage that has grown old (npm run bench -- memory).
 */
const REMEMBERED_MAX = 50_000;
const REMEMBERED_MS = 30_000;

/** Says who holds a token. */
export class TokenVerifier {
  readonly #verify: (token: string) => Promise<Verified | undefined>;
  readonly #clock: Clock;
  readonly #remembered: LRUCache<string, { caller: Caller; until: number }> | undefined;

  constructor(rules: TokenRules, clock: Clock) {
    this.#clock = clock;
    this.#verify = verifierOf(rules);
    this.#remembered = "jwksUrl" in rules.keys ? new LRUCache({ max: REMEMBERED_MAX }) : undefined;
  }

  /** The caller, or undefined when the token was not verified lately and `verify` must be asked. */
  remembered(token: string): Caller | undefined {
    const known = this.#remembered?.get(token);
    return known !== undefined && this.#clock.now() < known.until ? known.caller : undefined;
  }

  /** The caller, or undefined when the token is forged, expired, without `exp`, or not for us. */
  async verify(token: string): Promise<Caller | undefined> {
    const verified = await this.#verify(token);
    if (verified === undefined) return undefined;
    const { caller, expiresAt } = verified;
    this.#remembered?.set(token, { caller, until: Math.min(expiresAt, this.#clock.now() + REMEMBERED_MS) });
    return caller;
  }
}

interface Verified {
  readonly caller: Caller;
  /** Milliseconds since the epoch. */
  readonly expiresAt: number;
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

function verifierOf({
  keys,
  issuer,
  audience,
}: TokenRules): (token: string) => Promise<Verified | undefined> {
  const checks: JWTVerifyOptions = {
    requiredClaims: ["exp", "sub"],
    ...(issuer === undefined ? {} : { issuer }),
    ...(audience === undefined ? {} : { audience }),
  };
  // The algorithms are pinned by the kind of key, never taken from the token (RFC 8725 §3.1).
  if ("secret" in keys) {
    const claimsOf = hs256Claims(keys.secret, checks);
    return async (token) => verifiedBy(async () => claimsOf(token));
  }
  const jwks = createRemoteJWKSet(new URL(keys.jwksUrl));
  const algorithms = ["RS256", "ES256", "EdDSA"];
  return async (token) =>
    verifiedBy(async () => (await jwtVerify(token, jwks, { ...checks, algorithms })).payload);
}

const UNSECURED_HEADER = Buffer.from('{"alg":"none"}').toString("base64url");

/**
 * Answers the claims of a token that carries this secret's signature; throws for every other one. jose would compute the
 * HMAC with WebCrypto, which sends each token to another thread and back: 30 µs of processor time a token, 6 this way, and
 * in a rush every token is new (npm run bench -- hot-event). So only the HMAC is computed here. What a header and claims
 * must look like is jose's to judge, which gets the claims as a token without a signature once the signature was checked.
 */
function hs256Claims(secret: string, checks: JWTVerifyOptions): (token: string) => JWTPayload {
  const key = createSecretKey(secret, "utf8");
  // Whoever issues the tokens gives all of them the same header, so nearly every one has been judged before.
  let goodHeader: string | undefined;
  return (token) => {
    const header = token.slice(0, token.indexOf("."));
    if (header !== goodHeader) {
      const { alg, crit } = decodeProtectedHeader(token);
      if (alg !== "HS256" || crit !== undefined) throw new Error("not a plain HS256 token");
      goodHeader = header;
    }
    const signatureAt = token.lastIndexOf(".") + 1;
    const signed = token.slice(0, signatureAt - 1);
    const given = Buffer.from(token.slice(signatureAt));
    // Compared as text, so that each token has exactly one spelling of its signature.
    const expected = Buffer.from(createHmac("sha256", key).update(signed).digest("base64url"));
    if (given.length !== expected.length || !timingSafeEqual(given, expected)) throw new Error("forged");
    const claims = signed.slice(header.length + 1);
    return UnsecuredJWT.decode(`${UNSECURED_HEADER}.${claims}.`, checks).payload;
  };
}

async function verifiedBy(claims: () => Promise<JWTPayload>): Promise<Verified | undefined> {
  try {
    const { sub, exp = 0, role = "buyer" } = await claims();
    const userId = parseUserId(sub);
    const known = ROLES.find((candidate) => candidate === role);
    if (userId === undefined || known === undefined) return undefined;
    return { caller: { userId, role: known }, expiresAt: exp * 1000 };
  } catch {
    return undefined;
  }
}
