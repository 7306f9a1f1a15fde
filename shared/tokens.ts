/** Bearer tokens (RFC 7519), the only door to jose: who is asking, and in which role. */
import { createRemoteJWKSet, decodeJwt, jwtVerify, type JWTVerifyOptions, SignJWT } from "jose";
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

/** How many verified tokens are remembered, and for how long: a key that is withdrawn works no longer than this. */
const REMEMBERED_MAX = 50_000;
const REMEMBERED_MS = 30_000;

/** Says who holds a token. A token is verified once and remembered for a short while: a buyer sends the same one again. */
export class TokenVerifier {
  readonly #verify: (token: string) => Promise<Caller | undefined>;
  readonly #clock: Clock;
  readonly #remembered = new LRUCache<string, { caller: Caller; until: number }>({ max: REMEMBERED_MAX });

  constructor(rules: TokenRules, clock: Clock) {
    this.#clock = clock;
    this.#verify = verifierOf(rules);
  }

  /** The caller, or undefined when the token was not verified lately and `verify` must be asked. */
  remembered(token: string): Caller | undefined {
    const known = this.#remembered.get(token);
    return known !== undefined && this.#clock.now() < known.until ? known.caller : undefined;
  }

  /** The caller, or undefined when the token is forged, expired, without `exp`, or not for us. */
  async verify(token: string): Promise<Caller | undefined> {
    const caller = await this.#verify(token);
    if (caller === undefined) return undefined;
    const expiresAt = (decodeJwt(token).exp ?? 0) * 1000;
    this.#remembered.set(token, { caller, until: Math.min(expiresAt, this.#clock.now() + REMEMBERED_MS) });
    return caller;
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

function verifierOf({ keys, issuer, audience }: TokenRules): (token: string) => Promise<Caller | undefined> {
  const checks: JWTVerifyOptions = {
    requiredClaims: ["exp", "sub"],
    ...(issuer === undefined ? {} : { issuer }),
    ...(audience === undefined ? {} : { audience }),
  };
  // The algorithms are pinned by the kind of key, never taken from the token (RFC 8725 §3.1).
  if ("secret" in keys) {
    const key = new TextEncoder().encode(keys.secret);
    return async (token) => callerOf(jwtVerify(token, key, { ...checks, algorithms: ["HS256"] }));
  }
  const jwks = createRemoteJWKSet(new URL(keys.jwksUrl));
  return async (token) =>
    callerOf(jwtVerify(token, jwks, { ...checks, algorithms: ["RS256", "ES256", "EdDSA"] }));
}

async function callerOf(
  verifying: Promise<{ payload: Record<string, unknown> }>,
): Promise<Caller | undefined> {
  try {
    const { sub, role = "buyer" } = (await verifying).payload;
    const userId = parseUserId(sub);
    const known = ROLES.find((candidate) => candidate === role);
    return userId === undefined || known === undefined ? undefined : { userId, role: known };
  } catch {
    return undefined;
  }
}
