/** Bearer tokens (RFC 7519), the only door to jose: who is asking, and in which role. */
import { createHmac, createSecretKey, type KeyObject, timingSafeEqual } from "node:crypto";
import {
  createRemoteJWKSet,
  decodeJwt,
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
    const key = createSecretKey(keys.secret, "utf8");
    return async (token) => callerOf(async () => hs256Claims(token, key, checks));
  }
  const jwks = createRemoteJWKSet(new URL(keys.jwksUrl));
  const algorithms = ["RS256", "ES256", "EdDSA"];
  return async (token) =>
    callerOf(async () => (await jwtVerify(token, jwks, { ...checks, algorithms })).payload);
}

const UNSECURED_HEADER = Buffer.from('{"alg":"none"}').toString("base64url");

/**
 * The claims of a token that carries this key's signature; throws for every other one. jose would compute the HMAC with
 * WebCrypto, which sends each token to another thread and back: 30 µs of processor time a token, 6 this way, and in a
 * rush every token is new (npm run bench -- hot-event). So only the HMAC is computed here. What a header and claims must
 * look like is jose's to judge, which gets the claims as a token without a signature once the signature has been checked.
 */
function hs256Claims(token: string, key: KeyObject, checks: JWTVerifyOptions): JWTPayload {
  const { alg, crit } = decodeProtectedHeader(token);
  if (alg !== "HS256" || crit !== undefined) throw new Error("not a plain HS256 token");
  const signatureAt = token.lastIndexOf(".") + 1;
  const signed = token.slice(0, signatureAt - 1);
  const given = Buffer.from(token.slice(signatureAt));
  // Compared as text, so that each token has exactly one spelling of its signature.
  const expected = Buffer.from(createHmac("sha256", key).update(signed).digest("base64url"));
  if (given.length !== expected.length || !timingSafeEqual(given, expected)) throw new Error("forged");
  const claims = signed.slice(signed.indexOf(".") + 1);
  return UnsecuredJWT.decode(`${UNSECURED_HEADER}.${claims}.`, checks).payload;
}

async function callerOf(claims: () => Promise<JWTPayload>): Promise<Caller | undefined> {
  try {
    const { sub, role = "buyer" } = await claims();
    const userId = parseUserId(sub);
    const known = ROLES.find((candidate) => candidate === role);
    return userId === undefined || known === undefined ? undefined : { userId, role: known };
  } catch {
    return undefined;
  }
}
