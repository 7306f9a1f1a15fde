/**
 * Bearer tokens (RFC 7519): who is asking, and in which role. The only door to jose, which fetches key sets and signs, and
 * to jsonwebtoken, which verifies tokens with a shared secret: jose does that on another thread, for 30 µs more of processor
 * time a token, and in a rush every token is new (docs/decisions/0008-two-token-libraries.md).
 */
import { createSecretKey, type KeyObject } from "node:crypto";
import { createRemoteJWKSet, jwtVerify, type JWTVerifyOptions, SignJWT } from "jose";
import jsonwebtoken, { type Jwt } from "jsonwebtoken";
import { LRUCache } from "lru-cache";
import type { Clock } from "./clock.ts";
import { parseUserId, type UserId } from "./ids.ts";

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

/** How many verified tokens are remembered, and for how long. (jose itself keeps a fetched key set for ten minutes.) */
const REMEMBERED_MAX = 20_000;
const REMEMBERED_MS = 30_000;

/**
 * Says who holds a token. Tokens verified with a public key are all remembered. Those with a shared secret only when
 * the caller is likely to come again: in a rush in which everybody is new, what is remembered of them is only garbage that
 * has grown old (npm run bench -- memory).
 */
export class TokenVerifier {
  readonly #verify: (token: string) => Caller | undefined | Promise<Caller | undefined>;
  readonly #clock: Clock;
  readonly #remembered = new LRUCache<string, { caller: Caller; until: number }>({ max: REMEMBERED_MAX });

  constructor(rules: TokenRules, clock: Clock) {
    this.#clock = clock;
    this.#verify = verifierOf(rules);
  }

  /**
   * The caller, or undefined when the token is forged, expired, without `exp`, or not for us. A promise of it only where a
   * public key must be asked for or used; a shared secret and a token that is remembered give it at once.
   */
  verify(token: string): Caller | undefined | Promise<Caller | undefined> {
    const known = this.#remembered.get(token);
    if (known !== undefined && this.#clock.now() < known.until) return known.caller;
    const verified = this.#verify(token);
    if (!(verified instanceof Promise)) return verified;
    return verified.then((caller) => {
      if (caller !== undefined) this.#remember(token, caller);
      return caller;
    });
  }

  /** Says that `caller`, whom `verify(token)` just gave, will come again with the same token. */
  expectAgain(token: string, caller: Caller): void {
    // What is remembered is not prolonged: after REMEMBERED_MS the keys are asked again.
    if (this.#remembered.peek(token)?.caller !== caller) this.#remember(token, caller);
  }

  #remember(token: string, caller: Caller): void {
    const until = Math.min(caller.expiresAt, this.#clock.now() + REMEMBERED_MS);
    this.#remembered.set(token, { caller, until });
  }
}

/** What is looked at in a verified token. */
interface Claims {
  readonly sub?: string | undefined;
  readonly exp?: number | undefined;
  readonly role?: unknown;
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
}: TokenRules): (token: string) => Caller | undefined | Promise<Caller | undefined> {
  // The algorithms are pinned by the kind of key, never taken from the token (RFC 8725 §3.1).
  if ("secret" in keys) {
    const current = createSecretKey(keys.secret, "utf8");
    const previous =
      keys.previousSecret === undefined ? undefined : createSecretKey(keys.previousSecret, "utf8");
    return (token) => {
      try {
        return callerOf(sharedSecretClaims(token, [current, previous], { issuer, audience }));
      } catch {
        return undefined;
      }
    };
  }
  const checks: JWTVerifyOptions = {
    requiredClaims: ["exp", "sub"],
    ...(issuer === undefined ? {} : { issuer }),
    ...(audience === undefined ? {} : { audience }),
  };
  const jwks = createRemoteJWKSet(new URL(keys.jwksUrl));
  const algorithms = ["RS256", "ES256", "EdDSA"];
  return async (token) => {
    try {
      return callerOf((await jwtVerify(token, jwks, { ...checks, algorithms })).payload);
    } catch {
      return undefined;
    }
  };
}

/**
 * The claims of a token signed with one of the secrets. Throws when jsonwebtoken or RFC 7515 §4.1.11 refuses it. The second
 * secret is tried only when the first did not sign the token, so that a token of the current one costs one verification.
 */
function sharedSecretClaims(
  token: string,
  [key, other]: readonly [KeyObject, (KeyObject | undefined)?],
  { issuer, audience }: Pick<TokenRules, "issuer" | "audience">,
): Claims {
  let verified: Jwt;
  try {
    verified = jsonwebtoken.verify(token, key, {
      algorithms: ["HS256"],
      complete: true,
      ...(issuer === undefined ? {} : { issuer }),
      ...(audience === undefined ? {} : { audience }),
    });
  } catch (error) {
    // Signatures are verified before anything that the token claims.
    if (other === undefined || !(error instanceof Error) || error.message !== "invalid signature")
      throw error;
    return sharedSecretClaims(token, [other], { issuer, audience });
  }
  const { header, payload } = verified;
  // It takes tokens that never end, and extensions that it does not understand.
  if (typeof payload === "string" || payload.exp === undefined || "crit" in header)
    throw new Error("refused");
  return payload;
}

function callerOf({ sub, exp = 0, role = "buyer" }: Claims): Caller | undefined {
  const userId = parseUserId(sub);
  const known = ROLES.find((candidate) => candidate === role);
  if (userId === undefined || known === undefined) return undefined;
  return { userId, role: known, expiresAt: exp * 1000 };
}
